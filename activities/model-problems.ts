import type { FineTuneConfig } from '../contracts/fine-tune-config.js';
import { nearest } from '../contracts/nearest.js';
import type { Problem } from '../contracts/pipeline.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { loraProblems } from '../engine/formats/lora-problems.js';

/** All that the configuration asks of a model and that it cannot give. */
export function modelProblems({ lora, format, evaluate }: FineTuneConfig, model: LlamaConfig): Problem[] {
  const problems: Problem[] = loraProblems(model, lora, nearest).map(({ path, message }) => ({ path: `lora.${path}`, message }));
  if (format.maxLength > model.contextLength) {
    problems.push({ path: 'format.maxLength', message: `expected at most ${model.contextLength}, the model's context, got ${format.maxLength}` });
  }
  if (evaluate.maxNewTokens >= model.contextLength) {
    problems.push({ path: 'evaluate.maxNewTokens', message: `expected less than ${model.contextLength}, the model's context, got ${evaluate.maxNewTokens}` });
  }
  return problems;
}
