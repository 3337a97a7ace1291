import type { BlockModule, LlamaConfig } from '../llama-config.js';

export type Json = Record<string, unknown>;

/** What a family has beyond a plain LLaMA. */
export type ArchitectureFacts = Pick<LlamaConfig, 'unrotatedLayers' | 'slidingWindow' | 'biases' | 'qkNorm'>;

/** A family of models: what it alone has, and how config.json and GGUF say it. */
export interface Architecture {
  /** `model_type` of config.json. */
  modelType: string;
  /** The class in transformers, which config.json names too. */
  className: string;
  /** What transformers takes for keys that config.json leaves out. */
  defaults: Json;
  /** From config.json, the defaults filled in. Throws nothing: a value of the wrong type is named by `problems.push`. */
  read(json: Json, problems: string[]): ArchitectureFacts;
  /** The keys of config.json that say `read`'s facts again. */
  write(config: LlamaConfig): Json;
  gguf: {
    /** `general.architecture`. */
    name: string;
    /** Rows of q and k are ordered for rotating neighbours (2i, 2i + 1) of a head, not its halves (i, i + headDim / 2). */
    rotatesNeighbours: boolean;
    /** `has` tells whether a tensor is in the file; `layers` is their number. */
    facts(has: (tensor: string) => boolean, layers: number): ArchitectureFacts;
  };
}

const attention: readonly BlockModule[] = ['q_proj', 'k_proj', 'v_proj', 'o_proj'];
const feedForward: readonly BlockModule[] = ['gate_proj', 'up_proj', 'down_proj'];

/** `biases` of families where a switch stands for all layers of a kind. */
export function biasesOf(switches: { attention?: boolean; feedForward?: boolean }): Pick<ArchitectureFacts, 'biases'> {
  const biases = [...(switches.attention ? attention : []), ...(switches.feedForward ? feedForward : [])];
  return biases.length > 0 ? { biases } : {};
}

/** As config.json says it: `attention_bias` and `mlp_bias`. */
export function biasSwitches({ biases = [] }: LlamaConfig): { attention_bias: boolean; mlp_bias: boolean } {
  return { attention_bias: biases.includes('o_proj'), mlp_bias: biases.includes('down_proj') };
}

/** The value of a switch, false when it is left out. */
export function flag(json: Json, key: string, problems: string[]): boolean {
  const value = json[key] ?? false;
  if (typeof value !== 'boolean') problems.push(`${key}: expected true or false, got ${JSON.stringify(value)}`);
  return value === true;
}

/** A positive whole number, or undefined when it is left out or null. */
export function optionalCount(json: Json, key: string, problems: string[]): number | undefined {
  const value = json[key] ?? undefined;
  if (value === undefined || (Number.isSafeInteger(value) && (value as number) > 0)) return value as number | undefined;
  problems.push(`${key}: expected a positive whole number or null, got ${JSON.stringify(value)}`);
  return undefined;
}
