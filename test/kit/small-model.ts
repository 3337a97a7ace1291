import type { LoraConfig, TrainConfig } from '../../contracts/fine-tune-config.js';
import { loraSchema, trainSchema } from '../../contracts/fine-tune-config.js';
import { openModel } from '../../engine/formats/open-model.js';
import { readPeftAdapter } from '../../engine/formats/peft-adapter.js';
import { loadModel, type LlamaModel } from '../../engine/model/load.js';
import type { ParameterValues } from '../../engine/model/adapter.js';
import type { BaseDtype } from '../../engine/tensor/frozen-weight.js';
import { goldenPath } from './golden.js';

const targetModules = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj', 'lm_head'];

/** The small LLaMA of test/golden/model.py. */
export async function loadSmallModel(base: BaseDtype): Promise<LlamaModel> {
  const source = await openModel(goldenPath('model/base'));
  try {
    return await loadModel(source, base);
  } finally {
    await source.close();
  }
}

/** LoRA on all eight targets. */
export const smallLora = (options: Partial<LoraConfig> = {}): LoraConfig =>
  loraSchema.parse({ rank: 4, alpha: 8, dropout: 0, targetModules, ...options });

/** A short training on few rows. */
export const smallTrain = (options: Partial<TrainConfig> = {}): TrainConfig =>
  trainSchema.parse({ steps: 8, batchSize: 2, accumulation: 2, learningRate: 1e-2, groupByLength: false, ...options });

/** A PEFT directory's tensors by name. */
export const peftTensors = async (directory: string): Promise<ReadonlyMap<string, ParameterValues>> => (await readPeftAdapter(directory)).tensors;
