import koffi, { type LibraryHandle } from 'koffi';
import { CudaError } from './cuda-error.js';
import { loadLibrary, type LibraryPaths } from './libraries.js';

export interface Compiled {
  cubin: Buffer;
  /** The compiler's log; with `-v` for the assembler it names registers and spills. */
  log: string;
}

/** NVRTC: CUDA C++ to machine code, without a toolkit, headers or a GPU. */
export class Nvrtc {
  readonly path: string;
  /** e.g. `13.0` */
  readonly version: string;
  private readonly library: LibraryHandle;
  private readonly bound = new Map<string, (...args: unknown[]) => number>();

  constructor(paths: LibraryPaths = {}) {
    const { handle, path } = loadLibrary('nvrtc', paths);
    this.library = handle;
    this.path = path;
    const major = Buffer.alloc(4), minor = Buffer.alloc(4);
    this.check('nvrtcVersion', this.bind('int nvrtcVersion(_Out_ void *, _Out_ void *)')(major, minor));
    this.version = `${major.readInt32LE()}.${minor.readInt32LE()}`;
  }

  /** Architectures that this version can compile for, as numbers (90 is sm_90). */
  architectures(): number[] {
    const count = Buffer.alloc(4);
    this.check('nvrtcGetNumSupportedArchs', this.bind('int nvrtcGetNumSupportedArchs(_Out_ void *)')(count));
    const values = Buffer.alloc(4 * count.readInt32LE());
    this.check('nvrtcGetSupportedArchs', this.bind('int nvrtcGetSupportedArchs(_Out_ void *)')(values));
    return Array.from({ length: values.length / 4 }, (_, i) => values.readInt32LE(4 * i));
  }

  /**
   * @param name shown in the compiler's messages as the file's name
   * @throws CudaError `kernel_does_not_compile` with the compiler's log
   */
  compile(source: string, name: string, options: string[]): Compiled {
    const program = Buffer.alloc(8);
    this.check(
      'nvrtcCreateProgram',
      this.bind('int nvrtcCreateProgram(_Out_ void *, const char *, const char *, int, void *, void *)')(program, source, name, 0, null, null),
    );
    const handle = program.readBigUInt64LE();
    try {
      const code = this.bind('int nvrtcCompileProgram(uint64, int, const char **)')(handle, options.length, options);
      const log = this.text(handle, 'nvrtcGetProgramLogSize', 'nvrtcGetProgramLog');
      if (code !== 0) throw new CudaError('kernel_does_not_compile', `${name}: expected it to compile with ${options.join(' ')}, got\n${log}`);
      return { cubin: this.bytes(handle, 'nvrtcGetCUBINSize', 'nvrtcGetCUBIN'), log };
    } finally {
      this.bind('int nvrtcDestroyProgram(void *)')(program);
    }
  }

  private bytes(handle: bigint, sizeCall: string, call: string): Buffer {
    const size = Buffer.alloc(8);
    this.check(sizeCall, this.bind(`int ${sizeCall}(uint64, _Out_ void *)`)(handle, size));
    const out = Buffer.alloc(Number(size.readBigUInt64LE()));
    this.check(call, this.bind(`int ${call}(uint64, _Out_ void *)`)(handle, out));
    return out;
  }

  private text(handle: bigint, sizeCall: string, call: string): string {
    return this.bytes(handle, sizeCall, call).toString('utf8').replace(/\0+$/, '').trim();
  }

  private bind(declaration: string): (...args: unknown[]) => number {
    let call = this.bound.get(declaration);
    if (!call) this.bound.set(declaration, (call = this.library.func(declaration) as (...args: unknown[]) => number));
    return call;
  }

  private check(name: string, code: number): void {
    if (code === 0) return;
    const text = koffi.decode(this.bind('void * nvrtcGetErrorString(int)')(code), 'char', -1) as string;
    throw new CudaError('nvrtc_call_failed', `${name}: expected success, got ${text} (${code})`);
  }
}
