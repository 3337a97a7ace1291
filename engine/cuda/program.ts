/** A kernel to launch: source, how to compile it, and its grid. Built from shapes by the functions in `programs/`. */
export interface CudaProgram {
  /** Holds everything that changes the source. */
  key: string;
  /** Name of the `extern "C" __global__` function. */
  entry: string;
  /** CUDA C++ without the prelude; called only when the key is new. */
  source: () => string;
  /** Blocks; x up to 2^31 - 1, y and z up to 65,535. */
  grid: readonly [number, number, number];
  /** Threads of a block. */
  block: readonly [number, number, number];
  /** Bytes of dynamic shared memory. @default 0 */
  sharedBytes?: number;
  /** It may begin before the launch before it has ended, which its source sees to: see `OverlappingLaunch`. @default false */
  overlaps?: boolean;
  /** The one architecture whose own instructions it uses. @default any */
  architecture?: string;
}

/** A kernel's argument: a number is an int, `pointer` a device address (0: null), `tensorMap` as `TensorMaps` makes it. */
export type KernelArgument = number | { f32: number } | { i64: number } | { u32: number } | { pointer: number } | { tensorMap: Uint8Array };

/** How values lie in device memory. tfjs's `float32` may be `f32` or `bf16`; `int32` is `i32`; `bool` is `u8`. */
export type Format = 'f32' | 'bf16' | 'i32' | 'u8';

export const formatBytes: Record<Format, number> = { f32: 4, bf16: 2, i32: 4, u8: 1 };

/** The C++ type of a format; `bf16` is defined by the prelude. */
export const formatType: Record<Format, string> = { f32: 'float', bf16: 'bf16', i32: 'int', u8: 'unsigned char' };

export const ceilDiv = (a: number, b: number): number => Math.ceil(a / b);
