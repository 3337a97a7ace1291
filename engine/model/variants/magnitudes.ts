import { sqrt } from '@tensorflow/tfjs-core';
import { adaptedModules } from '../../formats/lora-modules.js';
import { peftMagnitudeName } from '../../formats/peft-adapter.js';
import { rowSquares } from '../../tensor/dora-linear.js';
import { linearWeight } from '../load.js';
import type { Variant } from './variant.js';

/** DoRA: the length of every row of an adapted weight, which starts as that of the base as it is stored. */
export const magnitudes: Variant = (config, options) =>
  options.useDora
    ? adaptedModules(config, options).map(({ path, shape: [out] }) => ({
        name: peftMagnitudeName(path), shape: [out], initial: ({ model }) => sqrt(rowSquares(linearWeight(model(), path))),
      }))
    : [];
