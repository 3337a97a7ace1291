import koffi, { type LibraryHandle } from 'koffi';
import { CudaError } from './cuda-error.js';
import { loadLibrary, type LibraryPaths } from './libraries.js';

/**
 * The part of the CUDA driver API that the backend uses. Handles and device addresses are plain numbers: they are below
 * 2^53 on every platform CUDA runs on. Each call throws on failure; see `check`.
 */
export class Driver {
  private readonly library: LibraryHandle;
  readonly path: string;
  private readonly errorName: (code: number, name: Buffer) => number;
  /** By declaration: binding takes longer than most calls. */
  private readonly bound = new Map<string, (...args: unknown[]) => void>();

  constructor(paths: LibraryPaths = {}) {
    const { handle, path } = loadLibrary('driver', paths);
    this.library = handle;
    this.path = path;
    this.errorName = handle.func('int cuGetErrorName(int, _Out_ void *)') as (code: number, name: Buffer) => number;
    this.call('int cuInit(uint32)')(0);
  }

  /** Binds a function; the returned one checks the result code and names the function when it fails. */
  call(declaration: string): (...args: unknown[]) => void {
    const known = this.bound.get(declaration);
    if (known) return known;
    const name = /(cu\w+)\(/.exec(declaration)![1];
    const native = this.library.func(declaration) as (...args: unknown[]) => number;
    const call = (...args: unknown[]): void => {
      const code = native(...args);
      if (code !== 0) throw this.failure(name, code);
    };
    this.bound.set(declaration, call);
    return call;
  }

  /** As `call`, but hands back the result code instead of throwing. */
  attempt(declaration: string): (...args: unknown[]) => number {
    return this.library.func(declaration) as (...args: unknown[]) => number;
  }

  failure(name: string, code: number): CudaError {
    const pointer = Buffer.alloc(8);
    const known = this.errorName(code, pointer) === 0 && pointer.readBigUInt64LE() !== 0n;
    const text = known ? (koffi.decode(pointer, 'string') as string) : `error ${code}`;
    return new CudaError(code === OUT_OF_MEMORY ? 'out_of_memory' : 'driver_call_failed', `${name}: expected success, got ${text} (${code})`, code === OUT_OF_MEMORY ? 'outOfMemory' : 'internal');
  }
}

/** CUDA_ERROR_OUT_OF_MEMORY */
export const OUT_OF_MEMORY = 2;

/** A place for an output parameter of 8 bytes. */
export class OutValue {
  readonly buffer = Buffer.alloc(8);
  get int(): number {
    return this.buffer.readInt32LE(0);
  }
  get float(): number {
    return this.buffer.readFloatLE(0);
  }
  get pointer(): number {
    return Number(this.buffer.readBigUInt64LE(0));
  }
}
