/** The modules that an adapter's options select, matched as PEFT matches its LoraConfig (tuners/tuners_utils.py, check_target_module_exists). */
import { blockModules, type LlamaConfig } from './llama-config.js';
import { modules, type Module } from './linear-modules.js';
import type { LoraOptions, LoraTargets } from './lora-options.js';

/** A linear layer with a LoRA branch. */
export interface AdaptedModule extends Module {
  /** Number in the model's list of linear layers. */
  place: number;
  rank: number;
  alpha: number;
  /** What the branch is multiplied by. */
  scale: number;
}

/** The name for every linear layer but the head. */
export const allLinear = 'all-linear';

/** The adapted linear layers, in the model's order. The options must be free of `loraProblems`. */
export function adaptedModules(config: LlamaConfig, options: LoraTargets): AdaptedModule[] {
  return modules(config).flatMap((module, place) => {
    if (!isTargeted(options, module.path) || isExcluded(options, module.path)) return [];
    const rank = rankOf(options, module.path);
    const alpha = patternValue(options.alphaPattern, module.path) ?? options.alpha;
    return [{ ...module, place, rank, alpha, scale: alpha / (options.useRsLora ? Math.sqrt(rank) : rank) }];
  });
}

/** Rank of an adapted module. */
export const rankOf = ({ rank, rankPattern }: Pick<LoraTargets, 'rank' | 'rankPattern'>, path: string): number => patternValue(rankPattern, path) ?? rank;

/** The linear layers whose bias is trained. */
export function biasedModules(config: LlamaConfig, options: LoraOptions): Module[] {
  const { bias = 'none' } = options;
  if (bias === 'none') return [];
  const among = bias === 'all' ? modules(config) : adaptedModules(config, options);
  return among.filter(({ target }) => target !== 'lm_head' && (config.biases ?? []).includes(target));
}

/** Ends of names that select the same modules, for files and texts: `all-linear` spelled out. */
export const spelledTargets = ({ targetModules: targets }: LoraTargets): string | readonly string[] => (targets === allLinear ? blockModules : targets);

/** The targets in words. */
export const describeTargets = ({ targetModules: targets }: LoraTargets): string => (typeof targets === 'string' ? targets : targets.join(', '));

/** Whether a module's name is `name` or ends in it, from a dot on. */
export const endsWithName = (path: string, name: string): boolean => path === name || path.endsWith(`.${name}`);
const matches = (names: string | readonly string[], path: string): boolean =>
  typeof names === 'string' ? wholeName(names).test(path) : names.some((name) => endsWithName(path, name));

/** Whether the targets name a module; it may be left out again. */
export function isTargeted({ targetModules: targets, layersToTransform }: LoraTargets, path: string): boolean {
  if (targets === allLinear) return path !== 'lm_head' && isInLayers(layersToTransform, path);
  if (typeof targets === 'string') return matches(targets, path);
  return targets.includes(path) || (matches(targets, path) && isInLayers(layersToTransform, path));
}

export const isExcluded = ({ excludeModules }: LoraTargets, path: string): boolean => excludeModules !== undefined && matches(excludeModules, path);

function isInLayers(layers: readonly number[] | undefined, path: string): boolean {
  if (layers === undefined) return true;
  const [, layer] = /\.layers\.(\d+)\./.exec(path) ?? [];
  return layer !== undefined && layers.includes(Number(layer));
}

/** Throws SyntaxError for what is no regular expression. */
export const wholeName = (pattern: string): RegExp => new RegExp(`^(?:${pattern})$`, 'u');
const endOfName = (pattern: string): RegExp => new RegExp(`^(?:.*\\.)?(?:${pattern})$`, 'u');

/** The pattern that counts for a module. */
export const patternOf = (patterns: Readonly<Record<string, number>> = {}, path: string): string | undefined =>
  Object.keys(patterns).find((pattern) => endOfName(pattern).test(path));

function patternValue(patterns: Readonly<Record<string, number>> | undefined, path: string): number | undefined {
  const pattern = patternOf(patterns, path);
  return pattern === undefined ? undefined : patterns![pattern];
}
