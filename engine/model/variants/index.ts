import { biases } from './biases.js';
import { lowRank } from './low-rank.js';
import { magnitudes } from './magnitudes.js';
import { savedModules } from './saved-modules.js';
import type { Variant } from './variant.js';

/** Everything that an adapter may train; a new option is added here. */
export const variants: readonly Variant[] = [lowRank, magnitudes, biases, savedModules];
