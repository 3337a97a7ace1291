import { adaptedModules, biasedModules } from '../../formats/lora-modules.js';
import { peftBiasName } from '../../formats/peft-adapter.js';
import { linearBias } from '../load.js';
import type { Variant } from './variant.js';

/** The base's own biases, of the adapted linear layers or of all, trained in place of the frozen ones. */
export const biases: Variant = (config, options) => {
  const adapted = new Set(adaptedModules(config, options).map(({ path }) => path));
  return biasedModules(config, options).map(({ path, shape: [out] }) => ({
    name: peftBiasName(path, adapted.has(path)), shape: [out], initial: ({ model }) => linearBias(model(), path).clone(),
  }));
};
