import type { FineTuneConfig } from '../contracts/fine-tune-config.js';
import type { Problem } from '../contracts/pipeline.js';
import { EngineError } from '../engine/errors.js';
import { ggufProblems } from '../engine/formats/gguf-write-model.js';
import { ggufTokenizer } from '../engine/formats/gguf-write-tokenizer.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';

/** All that a model has and the formats to export it to have not. */
export async function exportProblems({ export: { gguf } }: FineTuneConfig, { architecture, tokenizer }: { architecture: LlamaConfig; tokenizer: Tokenizer }): Promise<Problem[]> {
  if (gguf.length === 0) return [];
  const problems = ggufProblems(architecture);
  await ggufTokenizer(tokenizer, architecture.vocabSize, architecture.eosTokenIds).catch((error: unknown) => {
    if (!(error instanceof EngineError && error.code === 'gguf_unsupported')) throw error;
    problems.push(error.message);
  });
  return problems.map((message) => ({ path: 'export.gguf', message: `this model cannot be a GGUF: ${message}` }));
}
