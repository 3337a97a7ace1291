import { getBackend, type Tensor1D, type Tensor2D, type Tensor3D, type Tensor4D } from '@tensorflow/tfjs-core';
import type { LoraBranch } from './lora.js';
import type { FrozenWeight } from './weight-types.js';

/** A linear layer as a decode step needs it. */
export interface DecoderLinear {
  weight: FrozenWeight;
  /** Without dropout. */
  lora?: LoraBranch;
  /** [out]. */
  bias?: Tensor1D;
}

export interface DecoderBlock {
  inputNorm: Tensor1D;
  postAttentionNorm: Tensor1D;
  query: DecoderLinear;
  key: DecoderLinear;
  value: DecoderLinear;
  output: DecoderLinear;
  gate: DecoderLinear;
  up: DecoderLinear;
  down: DecoderLinear;
  /** [headDim] each: queries and keys are normalised before they are rotated. */
  qkNorm?: { query: Tensor1D; key: Tensor1D };
  /** Positions a query sees, its own included. @default all */
  window?: number;
  rotated: boolean;
}

/** All of a model that a decode step goes through. */
export interface DecoderModel {
  heads: number;
  kvHeads: number;
  headDim: number;
  rmsNormEps: number;
  /** [vocabulary, hidden]. */
  embedding: FrozenWeight;
  blocks: DecoderBlock[];
  norm: Tensor1D;
  head: DecoderLinear;
}

/** How tokens are drawn: as engine/model/sample.ts documents it. */
export interface DecoderSampling {
  temperature: number;
  topP?: number;
  topK?: number;
  seed: number;
}

export interface DecoderOptions {
  /** Tokens of each prompt. */
  lengths: readonly number[];
  /** Positions that a row may come to, prompt included. */
  capacity: number;
  /** Cosines and sines of positions 0 … capacity - 1, [capacity, 1, headDim / 2]. */
  rope: { cos: Tensor3D; sin: Tensor3D };
  /** @default greedy */
  sampling?: DecoderSampling;
}

/** Writes the answers of a batch of prompts, a token a row and step. Rows go by their number among the prompts. */
export interface Decoder {
  /** Steps that may be queued before the first one's tokens are read. */
  readonly ahead: number;
  /** Has another token of each row made. */
  queue(): void;
  /** The tokens of the oldest step that was queued and not read yet, and whose they are. */
  read(): Promise<{ rows: readonly number[]; tokens: ArrayLike<number> }>;
  /** These rows go on; of the others no more tokens are needed, though some may still come. */
  keep(rows: readonly number[]): void;
  dispose(): void;
}

/** A decoder with a cache of its own, which the prompts' keys and values are given to. */
export interface FusedDecoder extends Decoder {
  /** Where and how `fill` writes: decoders of one place may share a recording of what calls it (engine/tensor/replay.ts). */
  readonly place: string;
  /** Rotated keys, and values, of all prompts in a layer: [B, T, Hkv, D], padded on the right. */
  fill(layer: number, k: Tensor4D, v: Tensor4D): void;
  /** The residual stream at each prompt's last token, [B, hidden]: what the first step begins with. */
  start(hidden: Tensor2D): void;
}

/** Makes a decoder, or says that the model's shape does not fit it. */
export type DecoderFactory = (model: DecoderModel, options: DecoderOptions) => FusedDecoder | undefined;

const factories = new Map<string, DecoderFactory>();

/** For a backend that runs a decode step as a whole. */
export function registerDecoder(backend: string, factory: DecoderFactory): void {
  factories.set(backend, factory);
}

/** Whether the current backend may have a decoder. */
export const hasFusedDecoder = (): boolean => factories.has(getBackend());

/** The current backend's decoder; undefined where it has none, or none for this model. */
export const fusedDecoder: DecoderFactory = (model, options) => factories.get(getBackend())?.(model, options);
