/** A process of its own, which may be given little memory: ingests `large.jsonl` of a directory and prints the numbers of its rows. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ingestStage } from '../../activities/ingest.js';
import { fineTuneConfigSchema } from '../../contracts/fine-tune-config.js';
import { stageKit } from './stage.js';

const file = join(process.argv[2], 'large.jsonl');
const kit = await stageKit();
try {
  const { report } = await ingestStage.run({
    dataset: fineTuneConfigSchema.shape.dataset.parse({ uri: `file:${file}`, split: { test: 1000 } }),
    file: { uri: pathToFileURL(file).href, sha256: '0'.repeat(64), bytes: 1, mediaType: 'application/jsonl' },
    requiredColumns: ['product', 'description'], promptColumns: ['product'],
  }, kit.context);
  process.stdout.write(JSON.stringify({ read: report.read, train: report.train, test: report.test }));
} finally {
  await kit.remove();
}
