import { tensor, tidy, variable, tensor2d, type Tensor, type Tensor2D, type Variable } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import type { LlamaConfig } from '../formats/llama-config.js';
import { peftTensorName } from '../formats/peft-adapter.js';
import { philoxWords } from '../random/philox.js';
import type { LoraBranch } from '../tensor/lora.js';
import { modules, targetModules, type Module } from './targets.js';

/** What decides an adapter's shape; `alpha / rank` scales the branch. */
export interface LoraOptions {
  rank: number;
  alpha: number;
  /** On the input of A, in training only. */
  dropout: number;
  /** Names out of `targetModules`. With tied embeddings a LoRA on `lm_head` changes the head alone. */
  targetModules: readonly string[];
}

/** One A or B. */
export interface LoraParameter {
  /** As in a PEFT file: `base_model.model.<module>.lora_A.weight`. */
  name: string;
  variable: Variable;
}

/** Values of one parameter, row-major. */
export interface ParameterValues {
  shape: readonly number[];
  values: Float32Array;
}

/** Draws of a training step's micro-batch; absent where nothing is dropped. */
export interface DropoutDraw {
  seed: number;
  /** Optimizer step, from 1; 0 is the draw of A. */
  step: number;
  /** Micro-batch within the step, from 0. */
  microBatch: number;
}

interface Pair {
  module: Module;
  a: Variable;
  b: Variable;
  /** Place in the model's list of linear layers, which names the module's dropout stream. */
  place: number;
}

/** Streams that the modules of one micro-batch may use: 2^12 linear layers, 2^20 micro-batches. */
const MODULE_STREAMS = 4096;

/** The trainable part: A [rank, in] and B [out, rank] of every targeted linear layer. */
export class LoraAdapter {
  readonly scale: number;
  private readonly pairs: Map<string, Pair>;

  private constructor(
    readonly options: LoraOptions,
    pairs: Pair[],
  ) {
    this.scale = options.alpha / options.rank;
    this.pairs = new Map(pairs.map((pair) => [pair.module.path, pair]));
  }

  /** A uniform in ±1/√in (Kaiming with a = √5, as PEFT does), drawn by seed and name; B zero, so that the model starts unchanged. */
  static create(config: LlamaConfig, options: LoraOptions, seed: number): LoraAdapter {
    return LoraAdapter.build(config, options, (name, [rows, columns]) =>
      name.includes('.lora_A.') ? kaimingUniform(rows * columns, columns, seed, name) : new Float32Array(rows * columns),
    );
  }

  /** An adapter of given values, by parameter name. All of them must be there, in their shapes, and no others. */
  static fromTensors(config: LlamaConfig, options: LoraOptions, tensors: ReadonlyMap<string, ParameterValues>): LoraAdapter {
    const unused = new Set(tensors.keys());
    const problems: string[] = [];
    const take = (name: string, shape: [number, number]): Float32Array => {
      const tensor = tensors.get(name);
      unused.delete(name);
      if (tensor && tensor.shape.join() === shape.join()) return tensor.values;
      problems.push(`${name}: expected [${shape.join(',')}], got ${tensor ? `[${tensor.shape.join(',')}]` : 'none'}`);
      return new Float32Array(shape[0] * shape[1]);
    };
    const adapter = LoraAdapter.build(config, options, take);
    for (const name of unused) problems.push(`${name}: expected no such tensor, as ${options.targetModules.join(', ')} are targeted`);
    if (problems.length > 0) {
      adapter.dispose();
      throw new EngineError('invalidInput', 'adapter_mismatch', `adapter: it does not fit the model:\n${problems.join('\n')}`);
    }
    return adapter;
  }

  private static build(config: LlamaConfig, options: LoraOptions, values: (name: string, shape: [number, number]) => Float32Array): LoraAdapter {
    checkOptions(config, options);
    const wanted = new Set(options.targetModules);
    const pairs: Pair[] = [];
    modules(config).forEach((module, place) => {
      if (!wanted.has(module.target)) return;
      const [out, input] = module.shape;
      const matrix = (letter: 'A' | 'B', shape: [number, number]): Variable =>
        tidy(() => variable(tensor2d(values(peftTensorName(module.path, letter), shape), shape)));
      pairs.push({ module, place, a: matrix('A', [options.rank, input]), b: matrix('B', [out, options.rank]) });
    });
    return new LoraAdapter(options, pairs);
  }

  /** The branch of a linear layer, for its op; undefined where the layer is not targeted. */
  branch(path: string, draw?: DropoutDraw): LoraBranch | undefined {
    const pair = this.pairs.get(path);
    if (!pair) return undefined;
    const branch: LoraBranch = { a: pair.a as Tensor as Tensor2D, b: pair.b as Tensor as Tensor2D, scale: this.scale };
    const rate = this.options.dropout;
    if (draw && rate > 0) {
      branch.dropout = { rate, key: { seed: draw.seed, step: draw.step, stream: draw.microBatch * MODULE_STREAMS + pair.place } };
    }
    return branch;
  }

  /** Paths of the targeted linear layers, in the order of the model's layers. */
  modulePaths(): string[] {
    return [...this.pairs.keys()];
  }

  /** Every A and B, in the order of the model's layers. */
  parameters(): LoraParameter[] {
    return [...this.pairs.values()].flatMap(({ module, a, b }) => [
      { name: peftTensorName(module.path, 'A'), variable: a },
      { name: peftTensorName(module.path, 'B'), variable: b },
    ]);
  }

  /** Parameters whose gradient a part of the model gives: those of one block, or of the head (`layer` undefined). */
  parametersOf(layer: number | undefined): LoraParameter[] {
    const prefix = layer === undefined ? 'base_model.model.lm_head.' : `base_model.model.model.layers.${layer}.`;
    return this.parameters().filter(({ name }) => name.startsWith(prefix));
  }

  /** Values of all parameters, by name. */
  async values(): Promise<Map<string, ParameterValues>> {
    const values = new Map<string, ParameterValues>();
    for (const { name, variable } of this.parameters()) {
      values.set(name, { shape: [...(variable.shape as number[])], values: (await variable.data()) as Float32Array });
    }
    return values;
  }

  /** Gives every parameter the value that stands under its name. */
  assign(values: ReadonlyMap<string, ParameterValues>): void {
    for (const { name, variable } of this.parameters()) {
      tidy(() => variable.assign(tensor(values.get(name)!.values, variable.shape)));
    }
  }

  /** Number of trainable values. */
  get size(): number {
    return this.parameters().reduce((sum, { variable }) => sum + variable.size, 0);
  }

  dispose(): void {
    for (const { a, b } of this.pairs.values()) {
      a.dispose();
      b.dispose();
    }
  }
}

function checkOptions(config: LlamaConfig, { rank, targetModules: targets }: LoraOptions): void {
  const known: readonly string[] = targetModules;
  const problems = targets.flatMap((target, i) =>
    known.includes(target) ? [] : [`lora.targetModules[${i}]: unknown module '${target}'; this model has: ${known.join(', ')}`]);
  for (const { target, shape } of modules(config).slice(-targetModules.length)) {
    const least = Math.min(...shape);
    if (targets.includes(target) && rank >= least) problems.push(`lora.rank: expected less than ${least}, the smaller side of ${target}, got ${rank}`);
  }
  if (targets.length === 0) problems.push('lora.targetModules: expected at least one, got none');
  if (problems.length > 0) throw new EngineError('invalidInput', 'bad_lora', problems.join('\n'));
}

function kaimingUniform(count: number, fanIn: number, seed: number, name: string): Float32Array {
  const bound = 1 / Math.sqrt(fanIn);
  return Float32Array.from(philoxWords({ seed, step: 0, stream: hash(name) }, count), (word) => ((word + 0.5) / 2 ** 31 - 1) * bound);
}

/** FNV-1a, 32 bits: a stream for each parameter that does not depend on what else is targeted. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}
