import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { pino } from 'pino';
import type { StageContext } from '../../activities/stage.js';
import type { ArtifactRef } from '../../contracts/artifact.js';
import { openStore } from '../../store/open-store.js';

/** A directory with a store and a stage's context over it: datasets are local files, models the given directory. */
export async function stageKit(modelDirectory = ''): Promise<{ directory: string; context: StageContext; dataset(name: string, content: string | Uint8Array): Promise<ArtifactRef>; remove(): Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), 'stage-'));
  const workDirectory = await mkdtemp(join(directory, 'work-'));
  const context: StageContext = {
    store: openStore(pathToFileURL(join(directory, 'store')).href),
    models: { open: async () => modelDirectory },
    cacheDirectory: join(directory, 'cache'),
    fetchDataset: async ({ uri }) => new URL(uri).pathname,
    runTrainer: () => { throw new Error('this stage runs no trainer'); },
    log: pino({ level: 'silent' }),
    progress: () => undefined,
    training: () => undefined,
    signal: new AbortController().signal,
    workDirectory,
    keepCheckpoints: 1,
    runId: 'run',
    key: '0'.repeat(64),
  };
  return {
    directory,
    context,
    async dataset(name, content) {
      const path = join(directory, name);
      await writeFile(path, content);
      const bytes = await readFile(path);
      return { uri: pathToFileURL(path).href, sha256: createHash('sha256').update(bytes).digest('hex'), bytes: bytes.length, mediaType: 'application/octet-stream' };
    },
    remove: () => rm(directory, { recursive: true }),
  };
}

/** The objects of a JSONL artifact. */
export const readJsonl = async (context: StageContext, ref: ArtifactRef): Promise<Record<string, string>[]> =>
  (await context.store.getBytes(ref)).toString().split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as Record<string, string>);
