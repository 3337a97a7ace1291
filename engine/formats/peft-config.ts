/** adapter_config.json: the options of a LoRA adapter under PEFT's names. https://huggingface.co/docs/peft/package_reference/lora */
import { join } from 'node:path';
import { FormatError } from './format-error.js';
import { readJsonFile } from './json-file.js';
import { spelledTargets } from './lora-modules.js';
import { savableModules, type LoraOptions, type SavableModule } from './lora-options.js';

/** What a LoRA adapter is, beside its numbers. */
export interface PeftAdapterConfig extends LoraOptions {
  /** The base model, for people and for loaders. */
  baseModel: string;
  /** Commit of the base model on the hub. */
  revision?: string;
}

/** Every key of LoraConfig that versions from 0.14 on know; those that came later are left to their defaults. */
export function adapterConfigJson(config: PeftAdapterConfig): Record<string, unknown> {
  const { rank, alpha, dropout, baseModel, bias = 'none', excludeModules, initLoraWeights, layersToTransform, modulesToSave = [] } = config;
  const names = (modules: string | readonly string[]) => (typeof modules === 'string' ? modules : [...modules].sort());
  return {
    alpha_pattern: config.alphaPattern ?? {},
    auto_mapping: null,
    base_model_name_or_path: baseModel,
    bias,
    exclude_modules: excludeModules === undefined ? null : names(excludeModules),
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: initLoraWeights === 'gaussian' ? 'gaussian' : true,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: layersToTransform ?? null,
    loftq_config: {},
    lora_alpha: alpha,
    lora_dropout: dropout,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: modulesToSave.length > 0 ? modulesToSave : null,
    peft_type: 'LORA',
    r: rank,
    rank_pattern: config.rankPattern ?? {},
    revision: config.revision ?? null,
    target_modules: names(spelledTargets(config)),
    task_type: 'CAUSAL_LM',
    use_dora: config.useDora ?? false,
    use_rslora: config.useRsLora ?? false,
  };
}

/** The options of an adapter, without its numbers. */
export async function readPeftConfig(directory: string): Promise<PeftAdapterConfig> {
  const path = join(directory, 'adapter_config.json');
  return parseAdapterConfig(await readJsonFile(path), path);
}

/** Keys of LoraConfig that change nothing here: about the file, the run that made it, or options that another key turns on. */
const harmless = new Set([
  'auto_mapping', 'base_model_name_or_path', 'inference_mode', 'megatron_core', 'peft_version', 'qalora_group_size', 'revision', 'runtime_config', 'task_type',
  'eva_config', 'loftq_config',
]);

/** Ways of drawing A and B that leave the base's weights as they are. */
const plainInits = new Set<unknown>([undefined, null, true, false, 'gaussian', 'orthogonal', 'eva']);

function parseAdapterConfig(json: Record<string, unknown>, path: string): PeftAdapterConfig {
  const fields = new AdapterFields(json);
  const config: PeftAdapterConfig = {
    rank: fields.take('r', 'a positive whole number', isRank),
    alpha: fields.take('lora_alpha', 'a positive number', isPositive),
    dropout: fields.take('lora_dropout', 'a number from 0 to below 1', (value): value is number => typeof value === 'number' && value >= 0 && value < 1, 0),
    targetModules: fields.take('target_modules', 'a list of names, or a text', isNames),
    excludeModules: fields.take('exclude_modules', 'a list of names, or a text', (value): value is string | string[] | undefined => isNames(value), undefined),
    layersToTransform: layerList(fields.take('layers_to_transform', 'a list of whole numbers', isLayers, undefined)),
    rankPattern: fields.take('rank_pattern', 'ranks by pattern', isRecordOf(isRank), {}),
    alphaPattern: fields.take('alpha_pattern', 'positive numbers by pattern', isRecordOf(isPositive), {}),
    useRsLora: fields.take('use_rslora', 'true or false', isBoolean, false),
    useDora: fields.take('use_dora', 'true or false', isBoolean, false),
    bias: fields.take('bias', 'none, lora_only or all', isBias, 'none'),
    modulesToSave: fields.take('modules_to_save', `a list of ${savableModules.join(', ')}`, isSavable, []),
    initLoraWeights: fields.take('init_lora_weights', 'a way that leaves the weights of the base as they are', (value) => plainInits.has(value), true) === 'gaussian' ? 'gaussian' : 'default',
    baseModel: typeof json.base_model_name_or_path === 'string' ? json.base_model_name_or_path : '',
    ...(typeof json.revision === 'string' && { revision: json.revision }),
  };
  fields.take('peft_type', '"LORA"', (value) => value === 'LORA');
  fields.take('layers_pattern', 'none or "layers"', (value) => [value].flat().join() === 'layers', undefined);
  const problems = fields.finish(harmless);
  if (problems.length > 0) throw new FormatError('unsupported', path, problems.join('; '));
  return config;
}

/** The keys of adapter_config.json, taken one by one; what is wrong is gathered. */
class AdapterFields {
  private readonly left: Set<string>;
  private readonly problems: string[] = [];

  constructor(private readonly json: Record<string, unknown>) {
    this.left = new Set(Object.keys(json));
  }

  /** A key's value; `fallback`, where given, for one that is absent or empty. */
  take<T>(key: string, expected: string, is: (value: unknown) => value is T, ...fallback: [] | [T]): T;
  take(key: string, expected: string, is: (value: unknown) => boolean, ...fallback: unknown[]): unknown;
  take(key: string, expected: string, is: (value: unknown) => boolean, ...fallback: unknown[]): unknown {
    this.left.delete(key);
    const value = this.json[key];
    if (fallback.length > 0 && isEmpty(value)) return fallback[0];
    if (!is(value)) this.problems.push(`${key}: expected ${expected}, got ${show(value)}`);
    return value;
  }

  /** Every problem, keys that nothing has taken among them, unless they are empty or harmless. */
  finish(harmless: ReadonlySet<string>): string[] {
    const unknown = [...this.left].filter((key) => !harmless.has(key) && !isEmpty(this.json[key]));
    return [...this.problems, ...unknown.map((key) => `${key}: expected none, got ${show(this.json[key])}`)];
  }
}

const show = (value: unknown): string => JSON.stringify(value)?.slice(0, 80) ?? 'nothing';
const isEmpty = (value: unknown): boolean => value === undefined || value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0);
const isRank = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 1;
const isPositive = (value: unknown): value is number => typeof value === 'number' && value > 0;
const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';
const isNames = (value: unknown): value is string | string[] => typeof value === 'string' || (Array.isArray(value) && value.every((name) => typeof name === 'string'));
const isLayers = (value: unknown): value is number | number[] | undefined => [value].flat().every((layer) => Number.isSafeInteger(layer));
const layerList = (layers: number | number[] | undefined): number[] | undefined => (layers === undefined ? undefined : [layers].flat());
const isBias = (value: unknown): value is 'none' | 'lora_only' | 'all' => value === 'none' || value === 'lora_only' || value === 'all';
const isSavable = (value: unknown): value is SavableModule[] => Array.isArray(value) && value.every((name) => (savableModules as readonly unknown[]).includes(name));
const isRecordOf = (is: (value: unknown) => boolean) => (value: unknown): value is Record<string, number> =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every(is);
