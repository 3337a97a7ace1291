/** What in an adapter's options a model cannot be given. */
import type { LlamaConfig } from './llama-config.js';
import { modules, targetModules } from './linear-modules.js';
import { adaptedModules, allLinear, biasedModules, endsWithName, isExcluded, isTargeted, patternOf, wholeName, type AdaptedModule } from './lora-modules.js';
import { savableModules, type LoraOptions, type LoraTargets } from './lora-options.js';

/** One thing wrong with the options. `path` starts at the option: `targetModules[2]`. */
export interface OptionProblem {
  path: string;
  message: string;
}

/**
 * Everything in the options that this model cannot be given. PEFT passes over names and patterns that match nothing and settings
 * that take no effect; here each of them is a problem.
 * @param suggest a known name that a wrong one may stand for
 */
export function loraProblems(config: LlamaConfig, options: LoraOptions, suggest: (name: string, known: readonly string[]) => string | undefined = () => undefined): OptionProblem[] {
  const broken = [
    ...regexProblems('targetModules', options.targetModules), ...regexProblems('excludeModules', options.excludeModules),
    ...patternProblems('rankPattern', options.rankPattern), ...patternProblems('alphaPattern', options.alphaPattern),
  ];
  const sound = withoutBroken(options);
  const problems = [...broken, ...nameProblems(config, sound, suggest), ...layerProblems(config, sound), ...biasProblems(config, sound)];
  // What depends on the very modules that are adapted is not known when a pattern that selects them is broken.
  if (sound.targetModules !== options.targetModules || sound.excludeModules !== options.excludeModules) return problems;
  return [...problems, ...unusedPatterns(config, sound), ...rankProblems(config, sound), ...savedProblems(config, sound)];
}

/** The options without the regular expressions that are none; without that of the targets, all linear layers are. */
function withoutBroken(options: LoraOptions): LoraOptions {
  const { targetModules, excludeModules, rankPattern = {}, alphaPattern = {} } = options;
  const sound = (patterns: Readonly<Record<string, number>>) => Object.fromEntries(Object.entries(patterns).filter(([pattern]) => brokenRegex('', pattern).length === 0));
  return {
    ...options,
    targetModules: regexProblems('', targetModules).length > 0 ? allLinear : targetModules,
    excludeModules: regexProblems('', excludeModules).length > 0 ? undefined : excludeModules,
    rankPattern: sound(rankPattern), alphaPattern: sound(alphaPattern),
  };
}

function regexProblems(path: string, value: string | readonly string[] | undefined): OptionProblem[] {
  return typeof value === 'string' && value !== allLinear ? brokenRegex(path, value) : [];
}

const patternProblems = (path: string, patterns: Readonly<Record<string, number>> = {}): OptionProblem[] =>
  Object.keys(patterns).flatMap((pattern) => brokenRegex(`${path}.${pattern}`, pattern));

function brokenRegex(path: string, pattern: string): OptionProblem[] {
  try {
    wholeName(pattern);
    return [];
  } catch (error) {
    return [{ path, message: `expected a regular expression, got '${pattern}': ${(error as Error).message.replace(/^.*: /, '')}` }];
  }
}

/** What stands beside the linear layers under a name that a regular expression can match. */
const otherModules = ({ layers, qkNorm }: LlamaConfig): string[] => {
  const parts = ['', '.self_attn', '.mlp', '.mlp.act_fn', '.input_layernorm', '.post_attention_layernorm', ...(qkNorm ? ['.self_attn.q_norm', '.self_attn.k_norm'] : [])];
  const blocks = Array.from({ length: layers }, (_, layer) => parts.map((part) => `model.layers.${layer}${part}`));
  return ['model', 'model.embed_tokens', 'model.layers', 'model.norm', 'model.rotary_emb', ...blocks.flat()];
};

function nameProblems(config: LlamaConfig, options: LoraTargets, suggest: (name: string, known: readonly string[]) => string | undefined): OptionProblem[] {
  const { targetModules: targets, excludeModules: excluded } = options;
  const paths = modules(config).map(({ path }) => path);
  const has = `this model has: ${targetModules.join(', ')}`;
  const unknown = (name: string): string => {
    if (endsWithName('model.embed_tokens', name)) return `expected linear layers, got '${name}', the embedding; modulesToSave trains it in full`;
    const guess = suggest(name, targetModules);
    return `unknown module '${name}'${guess ? `, did you mean '${guess}'?` : ';'} ${has}`;
  };
  const inList = (path: string, names: readonly string[]): OptionProblem[] => names.flatMap((name, i) => {
    if (!paths.some((known) => endsWithName(known, name))) return [{ path: `${path}[${i}]`, message: unknown(name) }];
    return names.indexOf(name) < i ? [{ path: `${path}[${i}]`, message: `expected every module once, got '${name}' twice` }] : [];
  });
  const problems: OptionProblem[] = [];
  if (typeof targets !== 'string') {
    problems.push(...inList('targetModules', targets));
    if (targets.length === 0) problems.push({ path: 'targetModules', message: 'expected at least one, got none' });
  } else if (targets !== allLinear) {
    const other = otherModules(config).find((path) => wholeName(targets).test(path));
    if (!paths.some((path) => wholeName(targets).test(path))) problems.push({ path: 'targetModules', message: `expected ${allLinear} or a regular expression that matches whole names of linear layers, such as ${paths[0]}, got '${targets}'; ${has}` });
    else if (other !== undefined) problems.push({ path: 'targetModules', message: `expected to match linear layers alone, got '${targets}', which matches ${other} too` });
  }
  if (excluded !== undefined) {
    const useless = { path: 'excludeModules', message: `expected to leave out some of the targets, got ${JSON.stringify(excluded)}, which leaves out none` };
    if (typeof excluded !== 'string') problems.push(...inList('excludeModules', excluded));
    if (problems.length === 0 && !paths.some((path) => isTargeted(options, path) && isExcluded(options, path))) problems.push(useless);
    if (problems.length === 0 && adaptedModules(config, options).length === 0) problems.push({ path: 'excludeModules', message: 'expected to leave some of the targets, got a pattern for all of them' });
  }
  return problems;
}

function layerProblems(config: LlamaConfig, { layersToTransform: layers, targetModules: targets }: LoraTargets): OptionProblem[] {
  if (layers === undefined) return [];
  if (typeof targets === 'string' && targets !== allLinear) {
    return [{ path: 'layersToTransform', message: `expected a list of targetModules with it, got a regular expression, '${targets}', which can name the layers itself` }];
  }
  const problems = layers.flatMap((layer, i) => {
    if (layer >= config.layers) return [{ path: `layersToTransform[${i}]`, message: `expected less than ${config.layers}, the number of layers, got ${layer}` }];
    return layers.indexOf(layer) < i ? [{ path: `layersToTransform[${i}]`, message: `expected every layer once, got ${layer} twice` }] : [];
  });
  if (layers.length === 0) problems.push({ path: 'layersToTransform', message: 'expected at least one layer, got none' });
  if (targets !== allLinear && targets.includes('lm_head')) problems.push({ path: 'layersToTransform', message: 'expected no lm_head among the targetModules, got it, which is in no layer' });
  return problems;
}

function unusedPatterns(config: LlamaConfig, options: LoraTargets): OptionProblem[] {
  const adapted = adaptedModules(config, options);
  const unused = (path: string, patterns: Readonly<Record<string, number>> = {}): OptionProblem[] =>
    Object.keys(patterns)
      .filter((pattern) => !adapted.some((module) => patternOf(patterns, module.path) === pattern))
      .map((pattern) => ({ path: `${path}.${pattern}`, message: 'expected to match an adapted module before other patterns do, got a pattern that sets none' }));
  return adapted.length === 0 ? [] : [...unused('rankPattern', options.rankPattern), ...unused('alphaPattern', options.alphaPattern)];
}

function rankProblems(config: LlamaConfig, options: LoraTargets): OptionProblem[] {
  const tooLarge = new Map<string, AdaptedModule>();
  for (const module of adaptedModules(config, options)) {
    const pattern = patternOf(options.rankPattern, module.path);
    const path = pattern === undefined ? 'rank' : `rankPattern.${pattern}`;
    const side = Math.min(...module.shape);
    if (module.rank >= side && side < Math.min(...(tooLarge.get(path)?.shape ?? [Infinity]))) tooLarge.set(path, module);
  }
  return [...tooLarge].map(([path, { target, shape, rank }]) => ({
    path, message: `expected less than ${Math.min(...shape)}, the smaller side of ${target} [${shape.join('×')}], got ${rank}`,
  }));
}

function savedProblems(config: LlamaConfig, options: LoraTargets): OptionProblem[] {
  const { modulesToSave: saved = [] } = options;
  return saved.flatMap((name, i) => {
    const path = `modulesToSave[${i}]`;
    if (!savableModules.includes(name)) return [{ path, message: `expected ${savableModules.join(' or ')}, got '${String(name)}'` }];
    if (saved.indexOf(name) < i) return [{ path, message: `expected every module once, got '${name}' twice` }];
    const targeted = adaptedModules(config, options).some((module) => module.path === name);
    return targeted ? [{ path, message: `expected no module that targetModules adapts, got '${name}'` }] : [];
  });
}

function biasProblems(config: LlamaConfig, options: LoraOptions): OptionProblem[] {
  const { bias = 'none' } = options;
  if (bias === 'none' || biasedModules(config, options).length > 0) return [];
  const { biases = [] } = config;
  const reason = biases.length === 0 ? `as linear layers of ${config.architecture} have none` : `as of the linear layers ${biases.join(', ')} alone have one`;
  return [{ path: 'bias', message: `expected none, ${reason}, got ${bias}` }];
}
