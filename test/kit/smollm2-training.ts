import { readFile } from 'node:fs/promises';
import { loraSchema, trainSchema } from '../../contracts/fine-tune-config.js';
import { readTokenFile } from '../../engine/data/token-file.js';
import { openModel } from '../../engine/formats/open-model.js';
import { disposeModel, loadModel } from '../../engine/model/load.js';
import { trainAdapter } from '../../engine/train/train.js';
import { goldenPath } from './golden.js';

/** What a training of SmolLM2-135M-Instruct showed on the way. */
export interface TrainingCourse {
  /** nats a token, one a step. */
  losses: number[];
  /** Over the test rows, after the last step. */
  evalLoss: number;
}

/**
 * Trains on the token files of examples/quickstart.json: one epoch, NF4. Without dropout, as what is drawn for a row depends on its
 * place in a pass, and backends cut a step into passes differently: the courses are to differ by arithmetic alone.
 */
export async function trainSmolLm2(modelDirectory: string, onStep: (step: number) => void = () => undefined): Promise<TrainingCourse> {
  const [trainRows, testRows] = await Promise.all(['train', 'test'].map((name) => readTokenFile(goldenPath(`smollm2-training/${name}.safetensors`))));
  const source = await openModel(modelDirectory);
  const model = await loadModel(source, { dtype: 'nf4', doubleQuant: true });
  await source.close();
  const lora = loraSchema.parse({ rank: 8, alpha: 16, dropout: 0 });
  const train = trainSchema.parse({ epochs: 1, batchSize: 4, accumulation: 2, learningRate: 5e-4 });
  const { adapter, history } = await trainAdapter({ model, lora, train, trainRows, testRows }, { onStep: ({ step }) => onStep(step) });
  adapter.dispose();
  disposeModel(model);
  return { losses: history.log_history.flatMap((entry) => ('loss' in entry ? [entry.loss] : [])), evalLoss: history.best_metric! };
}

export const smolLm2Course = async (): Promise<TrainingCourse> => JSON.parse(await readFile(goldenPath('smollm2-training/course.json'), 'utf8')) as TrainingCourse;
