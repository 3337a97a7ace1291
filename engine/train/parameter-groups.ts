import type { LoraParameter } from '../model/adapter.js';
import type { ParameterGroup } from '../tensor/adam-w.js';

/**
 * How each parameter departs from the optimizer's settings: biases do not decay, as in transformers' Trainer; with LoRA+ (arXiv
 * 2402.12354) B, and everything that is a vector, learns `loraPlusRatio` times as fast, as PEFT's create_loraplus_optimizer has it.
 * @returns undefined where none does
 */
export function parameterGroups(parameters: readonly LoraParameter[], loraPlusRatio = 1): ParameterGroup[] | undefined {
  const groups = parameters.map(({ name, variable }): ParameterGroup => ({
    rate: name.includes('.lora_B.') || variable.rank === 1 ? loraPlusRatio : 1,
    decays: !name.endsWith('.bias'),
  }));
  return groups.every(({ rate, decays }) => rate === 1 && decays) ? undefined : groups;
}
