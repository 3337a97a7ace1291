import { EngineError } from '../errors.js';
import type { WeightSource } from '../formats/weight-source.js';
import { dequantizeInt8, quantizeInt8 } from '../quant/int8.js';
import { dequantizeNf4, quantizeNf4 } from '../quant/nf4.js';
import type { BaseDtype } from '../tensor/frozen-weight.js';
import { blockModules, modulePath } from '../formats/linear-modules.js';

export const isQuantized = (base: BaseDtype): base is Extract<BaseDtype, { dtype: 'nf4' | 'int8' }> => base.dtype === 'nf4' || base.dtype === 'int8';

/** A model's weights as training on a quantised base saw them: the blocks' linear layers quantised and dequantised, the rest as it is. */
export function dequantizedSource(source: WeightSource, base: BaseDtype): WeightSource {
  if (!isQuantized(base)) throw new EngineError('internal', 'bad_base', `dequantizedSource: base: expected nf4 or int8, got ${base.dtype}`);
  const quantized = new Set<string>();
  for (let layer = 0; layer < source.config.layers; layer++) for (const name of blockModules) quantized.add(`${modulePath(layer, name)}.weight`);
  return {
    config: source.config,
    names: () => source.names(),
    shape: (name) => source.shape(name),
    close: () => source.close(),
    async read(name) {
      const values = await source.read(name);
      if (!quantized.has(name)) return values;
      const [rows, columns] = source.shape(name);
      return base.dtype === 'nf4' ? dequantizeNf4(quantizeNf4(values, base)) : dequantizeInt8(quantizeInt8(values, rows, columns));
    },
  };
}
