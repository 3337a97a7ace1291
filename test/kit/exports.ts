import { join } from 'node:path';
import type { LlamaConfig } from '../../engine/formats/llama-config.js';
import { openModel } from '../../engine/formats/open-model.js';
import type { WeightSource } from '../../engine/formats/weight-source.js';
import { mergeAdapter } from '../../engine/model/merge.js';
import { loadPeft, savePeft } from '../../engine/model/peft.js';
import { goldenPath } from './golden.js';

const noTokenizer = { files: () => Promise.resolve(new Map<string, Uint8Array>()) };

/**
 * Writes what training hands to others, of the small LLaMA and its adapter in test/golden/model: `adapter/` (PEFT), `merged/`
 * (Hugging Face) and `untied/`, merged with the same model whose head shares the embedding's weights.
 */
export async function writeExports(directory: string): Promise<void> {
  const base = goldenPath('model/base');
  const source = await openModel(base);
  try {
    const adapter = await loadPeft(source.config, goldenPath('model/adapter'));
    await savePeft(adapter, join(directory, 'adapter'), 'base');
    await mergeAdapter(source, adapter, noTokenizer, join(directory, 'merged'));
    await mergeAdapter(tied(source), adapter, noTokenizer, join(directory, 'untied'));
    adapter.dispose();
  } finally {
    await source.close();
  }
}

/** The source without a head of its own. */
function tied(source: WeightSource): WeightSource {
  const config: LlamaConfig = { ...source.config, tiedEmbeddings: true };
  return { config, names: () => source.names().filter((name) => name !== 'lm_head.weight'), shape: (name) => source.shape(name), read: (name) => source.read(name), close: () => source.close() };
}
