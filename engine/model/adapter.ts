import { tensor, tidy, variable, type Tensor, type Tensor1D, type Tensor2D, type Variable } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import type { LlamaConfig } from '../formats/llama-config.js';
import { adaptedModules, biasedModules, describeTargets, type AdaptedModule } from '../formats/lora-modules.js';
import type { LoraOptions, SavableModule } from '../formats/lora-options.js';
import { loraProblems } from '../formats/lora-problems.js';
import { peftBiasName, peftMagnitudeName, peftSavedName, peftTensorName, type PeftTensor } from '../formats/peft-adapter.js';
import type { PhiloxKey } from '../random/philox.js';
import type { LoraBranch } from '../tensor/lora.js';
import type { LlamaModel } from './load.js';
import { variants } from './variants/index.js';
import type { PlannedParameter } from './variants/variant.js';

export type { LoraOptions } from '../formats/lora-options.js';

/** One trainable tensor. */
export interface LoraParameter {
  /** As in a PEFT file: `base_model.model.<module>.lora_A.weight`. */
  name: string;
  variable: Variable;
}

/** Values of one parameter, row-major. */
export type ParameterValues = PeftTensor;

/** Draws of a training step's micro-batch; absent where nothing is drawn. */
export interface DropoutDraw {
  seed: number;
  /** Optimizer step, from 1; 0 is the draw of A. */
  step: number;
  /** Micro-batch within the step, from 0. */
  microBatch: number;
}

/** A part of the model with parameters of its own: a block by its number, the embedding, or the head (undefined). */
export type ModelPart = number | 'embedding' | undefined;

/** Streams that one micro-batch may use: 2^12, one for each linear layer and the last for noise; 2^20 micro-batches. */
const MODULE_STREAMS = 4096;

/** The first stream of a micro-batch's draws. */
export const dropoutStream = ({ microBatch }: Pick<DropoutDraw, 'microBatch'>): number => microBatch * MODULE_STREAMS;
/** The stream of one purpose within a micro-batch. */
export const drawKey = (draw: DropoutDraw, place: number): PhiloxKey => ({ seed: draw.seed, step: draw.step, stream: dropoutStream(draw) + place });
/** Place of the noise on the embeddings among the streams. */
export const NOISE_PLACE = MODULE_STREAMS - 1;

/** The trainable part: A and B of the adapted linear layers, and what else the options train. */
export class LoraAdapter {
  private readonly modules: ReadonlyMap<string, AdaptedModule>;
  private readonly variables: ReadonlyMap<string, Variable>;
  /** Names of the trained biases, by linear layer. */
  private readonly biases: ReadonlyMap<string, string>;

  private constructor(
    config: LlamaConfig,
    readonly options: LoraOptions,
    values: (parameter: PlannedParameter) => Tensor,
  ) {
    checkOptions(config, options);
    const planned = variants.flatMap((variant) => variant(config, options));
    this.modules = new Map(adaptedModules(config, options).map((module) => [module.path, module]));
    this.biases = new Map(biasedModules(config, options).map(({ path }) => [path, peftBiasName(path, this.modules.has(path))]));
    this.variables = new Map(planned.map((parameter) => [parameter.name, tidy(() => variable(values(parameter)))]));
  }

  /**
   * As PEFT starts one, drawn by seed and name: the model computes what it did before.
   * @param model what magnitudes, biases and modules trained in full are copied from; needed where the options train some
   */
  static create(config: LlamaConfig, options: LoraOptions, seed: number, model?: LlamaModel): LoraAdapter {
    const origin = { seed, model: () => model ?? missingModel() };
    return new LoraAdapter(config, options, (parameter) => parameter.initial(origin));
  }

  /** An adapter of given values, by parameter name. All of them must be there, in their shapes, and no others. */
  static fromTensors(config: LlamaConfig, options: LoraOptions, tensors: ReadonlyMap<string, ParameterValues>): LoraAdapter {
    const unused = new Set(tensors.keys());
    const problems: string[] = [];
    const adapter = new LoraAdapter(config, options, ({ name, shape }) => {
      const found = tensors.get(name);
      unused.delete(name);
      if (found && found.shape.join() === shape.join()) return tensor(found.values, shape, 'float32');
      problems.push(`${name}: expected [${shape.join(',')}], got ${found ? `[${found.shape.join(',')}]` : 'none'}`);
      return tensor(new Float32Array(shape.reduce((size, side) => size * side, 1)), shape);
    });
    for (const name of unused) problems.push(`${name}: expected no such tensor, as ${describeTargets(options)} are targeted`);
    if (problems.length > 0) {
      adapter.dispose();
      throw new EngineError('invalidInput', 'adapter_mismatch', `adapter: it does not fit the model:\n${problems.join('\n')}`);
    }
    return adapter;
  }

  /** The branch of a linear layer, for its op; undefined where the layer is not targeted. */
  branch(path: string, draw?: DropoutDraw): LoraBranch | undefined {
    const module = this.modules.get(path);
    if (!module) return undefined;
    const branch: LoraBranch = {
      a: this.tensorOf<Tensor2D>(peftTensorName(path, 'A'))!, b: this.tensorOf<Tensor2D>(peftTensorName(path, 'B'))!, scale: module.scale,
      magnitude: this.tensorOf<Tensor1D>(peftMagnitudeName(path)),
    };
    const rate = this.options.dropout;
    if (draw && rate > 0) branch.dropout = { rate, key: drawKey(draw, module.place) };
    return branch;
  }

  /** The trained bias of a linear layer, [out]; undefined where the base's own holds. */
  bias(path: string): Tensor1D | undefined {
    const name = this.biases.get(path);
    return name === undefined ? undefined : this.tensorOf<Tensor1D>(name);
  }

  /** A module that is trained in full, [vocabulary, hidden]; undefined where the base's own holds. */
  saved(module: SavableModule): Tensor2D | undefined {
    return this.tensorOf<Tensor2D>(peftSavedName(module));
  }

  /** Paths of the targeted linear layers, in the order of the model's layers. */
  modulePaths(): string[] {
    return [...this.modules.keys()];
  }

  /** Everything that is trained: each module's A and B in the order of the model's layers, then what the other options add. */
  parameters(): LoraParameter[] {
    return [...this.variables].map(([name, variable]) => ({ name, variable }));
  }

  /** Parameters whose gradient a part of the model gives. */
  parametersOf(part: ModelPart): LoraParameter[] {
    const module = part === undefined ? 'lm_head' : part === 'embedding' ? 'model.embed_tokens' : `model.layers.${part}`;
    return this.parameters().filter(({ name }) => name.startsWith(`base_model.model.${module}.`));
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

  /** Number of values that the model gets beside its own: all but the biases, which are trained in place. */
  get added(): number {
    const own = new Set(this.biases.values());
    return this.parameters().reduce((sum, { name, variable }) => sum + (own.has(name) ? 0 : variable.size), 0);
  }

  dispose(): void {
    for (const variable of this.variables.values()) variable.dispose();
  }

  private tensorOf<T extends Tensor>(name: string): T | undefined {
    return this.variables.get(name) as Tensor | undefined as T | undefined;
  }
}

function checkOptions(config: LlamaConfig, options: LoraOptions): void {
  const problems = loraProblems(config, options).map(({ path, message }) => `lora.${path}: ${message}`);
  if (problems.length > 0) throw new EngineError('invalidInput', 'bad_lora', problems.join('\n'));
}

function missingModel(): never {
  throw new EngineError('internal', 'no_model', 'adapter: expected the model that its options copy parts of, got none');
}
