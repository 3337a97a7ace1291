import type { FineTuneConfig } from '../contracts/fine-tune-config.js';
import { nearest } from '../contracts/nearest.js';
import type { Problem } from '../contracts/pipeline.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';

/** The linear layers that can be adapted, by name → [out, in]. */
export function linearShapes(model: LlamaConfig): Record<string, [number, number]> {
  const { hiddenSize, intermediateSize, vocabSize, headDim } = model;
  const [queries, keys] = [model.heads * headDim, model.kvHeads * headDim];
  return {
    q_proj: [queries, hiddenSize], k_proj: [keys, hiddenSize], v_proj: [keys, hiddenSize], o_proj: [hiddenSize, queries],
    gate_proj: [intermediateSize, hiddenSize], up_proj: [intermediateSize, hiddenSize], down_proj: [hiddenSize, intermediateSize],
    lm_head: [vocabSize, hiddenSize],
  };
}

/** All that the configuration asks of a model and that it cannot give. */
export function modelProblems({ lora, format, evaluate }: FineTuneConfig, model: LlamaConfig): Problem[] {
  const shapes = linearShapes(model);
  const names = Object.keys(shapes);
  const problems: Problem[] = lora.targetModules.flatMap((module, i) => {
    const path = `lora.targetModules[${i}]`;
    if (!names.includes(module)) {
      const guess = nearest(module, names);
      return [{ path, message: `unknown module '${module}'${guess ? `, did you mean '${guess}'?` : ';'} this model has: ${names.join(', ')}` }];
    }
    return lora.targetModules.indexOf(module) < i ? [{ path, message: `expected every module once, got '${module}' twice` }] : [];
  });
  const [smallest] = lora.targetModules
    .filter((module) => names.includes(module))
    .map((module) => ({ module, shape: shapes[module], side: Math.min(...shapes[module]) }))
    .sort((a, b) => a.side - b.side);
  if (smallest && lora.rank >= smallest.side) {
    problems.push({ path: 'lora.rank', message: `expected less than ${smallest.side}, the smaller side of ${smallest.module} [${smallest.shape.join('×')}], got ${lora.rank}` });
  }
  if (format.maxLength > model.contextLength) {
    problems.push({ path: 'format.maxLength', message: `expected at most ${model.contextLength}, the model's context, got ${format.maxLength}` });
  }
  if (evaluate.maxNewTokens >= model.contextLength) {
    problems.push({ path: 'evaluate.maxNewTokens', message: `expected less than ${model.contextLength}, the model's context, got ${evaluate.maxNewTokens}` });
  }
  return problems;
}
