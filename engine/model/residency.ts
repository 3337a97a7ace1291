import type { LlamaConfig } from '../formats/llama-config.js';
import type { BaseDtype } from '../tensor/frozen-weight.js';
import { blockModules, moduleShape } from '../formats/linear-modules.js';

/** Share of the free memory that dequantised copies may take; the rest is for activations and the system. */
const SHARE = 0.4;

export interface ResidencyPlan {
  resident: boolean;
  /** One line for people. */
  description: string;
}

/** Decides whether float32 copies of a quantised base are kept, by the memory they take. The numbers are the same either way. */
export function planResidency(config: LlamaConfig, base: BaseDtype, freeBytes: number): ResidencyPlan {
  const linear = config.layers * blockModules.reduce((sum, name) => sum + moduleShape(config, name).reduce((a, b) => a * b), 0);
  if (base.dtype === 'f32' || base.dtype === 'bf16') {
    return { resident: false, description: `base ${base.dtype}: ${size(linear * 4)} of block weights in float32` };
  }
  const resident = linear * 4 <= freeBytes * SHARE;
  const bits = base.dtype === 'nf4' ? 4 : 8;
  const copies = `dequantised copies need ${size(linear * 4)}, ${size(freeBytes)} are free`;
  return {
    resident,
    description: `base ${base.dtype}: ${size((linear * bits) / 8)} of block weights; ${copies}: ${resident ? 'kept' : 'made anew for each product'}`,
  };
}

const size = (bytes: number): string => (bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(0)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`);
