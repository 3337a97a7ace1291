import { backend, tidy, type Tensor } from '@tensorflow/tfjs-core';
import type { FrozenWeight } from './weight-types.js';

/** What changes between two runs of a computation beside its tensors: where dropout draws. */
export interface Draw {
  /** `PhiloxKey.step` of every draw. */
  step: number;
  /** The difference to the recorded run's is added to `PhiloxKey.stream` of every draw. */
  stream: number;
}

/** A computation that runs many times and reads nothing back. */
export interface Computation {
  /** Names what it does; the inputs' shapes belong to the name. */
  key: string;
  /** Everything that varies from run to run. */
  inputs: readonly Tensor[];
  /** Tensors that it reads, or variables that it changes, where they are. */
  parameters: readonly Tensor[];
  draw: Draw;
  compute: (inputs: Tensor[]) => Tensor[];
}

/** What a training may choose about memory on a backend that plans it. The numbers are the same either way, but for rounding. */
export interface MemoryChoices {
  /** Keep copies of the quantised matrices in the products' format. */
  copies: boolean;
  /** Put what `shelve` is given into the host's memory. */
  offload: boolean;
  /** Measure which algorithms are the fastest for each new shape of a product: some tenths of a second a width, for many passes of it. */
  tune?: boolean;
  /** What was planned and what would need less: told when memory runs out. */
  plan?: string;
}

/** What a computation would take of the device's memory beside its inputs and parameters. */
export interface MeasuredMemory {
  /** Bytes. */
  reserved: number;
  /** Bytes of what is there at the highest point, by what it is for. */
  byPurpose: ReadonlyMap<string, number>;
  /** Bytes that it would make once and leave, such as the copies that `MemoryChoices` may keep; not among `reserved`. */
  lasting: number;
}

/**
 * What a backend may offer to a training beside tfjs's interface: it records a computation and replays it, which costs the host one
 * call, and it can tell how much memory a computation would take without running it.
 */
export interface Replayer {
  /** Runs or replays; the results are the same bit for bit. */
  run(computation: Computation): Tensor[];
  /** What a computation would take. Nothing is computed. */
  measure(computation: Computation): MeasuredMemory;
  choose(choices: MemoryChoices): void;
  /** Brings frozen matrices into the form that they keep, so that `memory` is right about them. */
  settle(weights: readonly FrozenWeight[]): void;
  /** Bytes in use, those of them that are the products' workspace, and bytes that may still be taken. */
  memory(): { inUse: number; workspace: number; free: number };
  /** Whether `shelve` takes tensors out of the device's memory. */
  readonly hasShelf: boolean;
  /** Puts tensors away; see `shelve`. */
  shelve(tensors: readonly Tensor[]): Shelved;
  /** Begins to read float32 scalars; see `readScalars`. */
  read(scalars: readonly Tensor[]): () => number[];
  /** Forgets what was recorded, and frees its memory. */
  clear(): void;
}

/** Tensors that were put away together. */
export interface Shelved {
  /** Begins to bring them back, unless it has; `take` waits for them. */
  fetch(): void;
  /** The tensors, once. */
  take(): Tensor[];
}

/** The current backend's, if it offers one. */
export const replayer = (): Replayer | undefined => (backend() as { replayer?: Replayer }).replayer;

/** Runs a computation in the cheapest way that the backend has. */
export function replay(computation: Computation): Tensor[] {
  const { inputs, compute } = computation;
  return replayer()?.run(computation) ?? tidy(() => compute([...inputs]));
}

/**
 * Begins to read scalars. What is returned waits for them, and not for what was queued since on a backend that can tell the two
 * apart. One reading at a time.
 */
export function readScalars(scalars: readonly Tensor[]): () => Promise<number[]> {
  const values = replayer()?.read(scalars);
  return async () => values?.() ?? Promise.all(scalars.map(async (scalar) => (await scalar.data())[0]));
}

/** Tensors that stay where they are. */
export const atHand = (tensors: readonly Tensor[]): Shelved => ({ fetch: () => undefined, take: () => [...tensors] });

/** Puts tensors that are needed much later out of the way. They belong to the shelf from then on. */
export const shelve = (tensors: readonly Tensor[]): Shelved => replayer()?.shelve(tensors) ?? atHand(tensors);

/** Whether `shelve` takes tensors out of the device's memory, so that more may be kept than must be. */
export const hasShelf = (): boolean => replayer()?.hasShelf ?? false;
