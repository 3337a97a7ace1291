import koffi from 'koffi';
import { CudaError } from './cuda-error.js';
import { DiskCache } from './cubin-cache.js';
import { Driver, OUT_OF_MEMORY, OutValue } from './driver.js';
import type { LibraryPaths } from './libraries.js';
import { CachingAllocator, type Block } from './memory.js';
import { Nvrtc } from './nvrtc.js';
import { OverlappingLaunch } from './overlapping-launch.js';
import { prelude } from './prelude.cu.js';
import type { CudaProgram, KernelArgument } from './program.js';
import { TensorMaps } from './tensor-map.js';
import { VirtualMemory } from './virtual-memory.js';

export interface DeviceOptions {
  /** Ordinal of the GPU among the visible ones. @default 0 */
  ordinal?: number;
  libraries?: LibraryPaths;
  /** Never take more device memory than this, in bytes. @default TEMPER_CUDA_MEMORY_LIMIT, else no limit */
  memoryLimit?: number;
}

interface LoadedKernel {
  function: number;
  sharedBytes: number;
}

const ATTRIBUTE = { multiprocessors: 16, sharedBytesOptIn: 97, major: 75, minor: 76, l2Bytes: 38 } as const;
const MAX_DYNAMIC_SHARED = 8;
const ARGUMENT_BYTES = 4096;

/** One GPU: its context, its stream, its memory, and the kernels compiled for it. */
export class CudaDevice {
  readonly name: string;
  /** Compute capability as a number: 90 is 9.0. */
  readonly capability: number;
  readonly multiprocessors: number;
  /** Most bytes of shared memory that a block may have. */
  readonly sharedLimit: number;
  readonly driverVersion: string;
  readonly memory: CachingAllocator;
  readonly stream: number;
  readonly driver: Driver;
  readonly cache = new DiskCache();
  readonly tensorMaps: TensorMaps;
  private readonly overlapping: OverlappingLaunch;
  /** Called in place of each launch, which it must make: for profiles. */
  onLaunch?: (name: string, launch: () => void) => void;
  /** Nothing is queued: memory is being measured, and addresses lead nowhere. */
  idle = false;
  /** Kernels launched since the start. */
  launches = 0;
  /** Milliseconds spent compiling, and how many kernels were. */
  readonly compilation = { milliseconds: 0, kernels: 0, fromCache: 0 };

  private compiler?: Nvrtc;
  private readonly kernels = new Map<string, LoadedKernel>();
  private readonly calls;
  private readonly arguments = Buffer.alloc(ARGUMENT_BYTES);
  private readonly argumentView = new DataView(this.arguments.buffer, this.arguments.byteOffset, ARGUMENT_BYTES);
  private readonly argumentSize = Buffer.alloc(8);
  private readonly argumentsAddress: bigint;
  /** Of the arguments packed last, in order. */
  private readonly offsets: number[] = [];
  /** Their addresses, for cuLaunchKernel's `kernelParams`. */
  private readonly places = new BigUint64Array(ARGUMENT_BYTES / 4);
  private readonly placesAddress: number;
  private readonly extra = Buffer.alloc(40);
  private readonly extraAddress: number;

  constructor(private readonly options: DeviceOptions = {}) {
    const driver = (this.driver = new Driver(options.libraries));
    this.tensorMaps = new TensorMaps(driver);
    const out = new OutValue();
    driver.call('int cuDeviceGetCount(_Out_ void *)')(out.buffer);
    const ordinal = options.ordinal ?? 0;
    if (ordinal >= out.int) throw new CudaError('no_device', `GPU: expected a CUDA device number ${ordinal}, got ${out.int} device(s)`);
    driver.call('int cuDeviceGet(_Out_ void *, int)')(out.buffer, ordinal);
    const device = out.int;
    const text = Buffer.alloc(128);
    driver.call('int cuDeviceGetName(_Out_ void *, int, int)')(text, 128, device);
    this.name = text.toString('utf8').replace(/\0.*$/s, '');
    driver.call('int cuDriverGetVersion(_Out_ void *)')(out.buffer);
    this.driverVersion = `${Math.floor(out.int / 1000)}.${(out.int % 1000) / 10}`;
    const attribute = driver.call('int cuDeviceGetAttribute(_Out_ void *, int, int)');
    const read = (which: number) => (attribute(out.buffer, which, device), out.int);
    this.capability = read(ATTRIBUTE.major) * 10 + read(ATTRIBUTE.minor);
    this.multiprocessors = read(ATTRIBUTE.multiprocessors);
    this.sharedLimit = read(ATTRIBUTE.sharedBytesOptIn);
    if (this.capability < 80) throw new CudaError('device_too_old', `${this.name}: expected compute capability 8.0 or higher (bf16), got ${this.capability / 10}`);
    driver.call('int cuDevicePrimaryCtxRetain(_Out_ void *, int)')(out.buffer, device);
    driver.call('int cuCtxSetCurrent(uint64)')(out.pointer);
    driver.call('int cuStreamCreate(_Out_ void *, uint32)')(out.buffer, 1 /* non-blocking: no implicit order with the default stream */);
    this.stream = out.pointer;
    this.overlapping = new OverlappingLaunch(driver, this.stream);

    const allocate = driver.attempt('int cuMemAlloc_v2(_Out_ void *, size_t)');
    const info = driver.call('int cuMemGetInfo_v2(_Out_ void *, _Out_ void *)');
    this.calls = {
      launch: driver.call('int cuLaunchKernel(uint64, uint32, uint32, uint32, uint32, uint32, uint32, uint32, uint64, uint64, uint64)'),
      free: driver.call('int cuMemFree_v2(uint64)'),
      info,
      synchronize: driver.call('int cuStreamSynchronize(uint64)'),
      toDevice: driver.call('int cuMemcpyHtoDAsync_v2(uint64, const void *, size_t, uint64)'),
      toDeviceNow: driver.call('int cuMemcpyHtoD_v2(uint64, const void *, size_t)'),
      toHost: driver.call('int cuMemcpyDtoHAsync_v2(_Out_ void *, uint64, size_t, uint64)'),
      copy: driver.call('int cuMemcpyDtoDAsync_v2(uint64, uint64, size_t, uint64)'),
      set: driver.call('int cuMemsetD8Async(uint64, uint8, size_t, uint64)'),
      loadModule: driver.call('int cuModuleLoadData(_Out_ void *, const void *)'),
      getFunction: driver.call('int cuModuleGetFunction(_Out_ void *, uint64, const char *)'),
      createEvent: driver.call('int cuEventCreate(_Out_ void *, uint32)'),
      destroyEvent: driver.call('int cuEventDestroy_v2(uint64)'),
      record: driver.call('int cuEventRecord(uint64, uint64)'),
      elapsed: driver.call('int cuEventElapsedTime(_Out_ void *, uint64, uint64)'),
      launchGraph: driver.call('int cuGraphLaunch(uint64, uint64)'),
      setFunctionAttribute: driver.call('int cuFuncSetAttribute(uint64, int, int)'),
    };
    const virtual = new VirtualMemory(driver, device);
    this.memory = new CachingAllocator(
      {
        allocate: (bytes) => {
          const code = allocate(out.buffer, bytes);
          if (code === OUT_OF_MEMORY) return undefined;
          if (code !== 0) throw driver.failure('cuMemAlloc', code);
          return out.pointer;
        },
        release: (address) => {
          this.synchronize(); // Work in flight may still use it.
          this.calls.free(address);
        },
        reserve: (bytes) => virtual.reserve(bytes),
        map: (address, bytes) => virtual.map(address, bytes),
        unmap: (address, bytes) => {
          this.synchronize();
          virtual.unmap(address, bytes);
        },
        info: () => this.memoryInfo(),
      },
      options.memoryLimit ?? (process.env.TEMPER_CUDA_MEMORY_LIMIT ? Number(process.env.TEMPER_CUDA_MEMORY_LIMIT) : undefined),
    );

    // cuLaunchKernel's `extra`: {1: parameter buffer, 2: its size, 0: end}. One buffer serves all launches, because the driver copies it.
    this.extra.writeBigUInt64LE(1n, 0);
    this.extra.writeBigUInt64LE(koffi.address(this.arguments), 8);
    this.extra.writeBigUInt64LE(2n, 16);
    this.extra.writeBigUInt64LE(koffi.address(this.argumentSize), 24);
    this.extra.writeBigUInt64LE(0n, 32);
    this.extraAddress = Number(koffi.address(this.extra));
    this.placesAddress = Number(koffi.address(this.places));
    this.argumentsAddress = BigInt(koffi.address(this.arguments));
  }

  get nvrtc(): Nvrtc {
    return (this.compiler ??= new Nvrtc(this.options.libraries));
  }

  /** The architecture kernels are compiled for. Hopper's own instructions need the `a` variant. */
  get architecture(): string {
    return `sm_${this.capability}${this.capability === 90 ? 'a' : ''}`;
  }

  /** Free and total bytes of the whole device. */
  memoryInfo(): { free: number; total: number } {
    const free = new OutValue(), total = new OutValue();
    this.calls.info(free.buffer, total.buffer);
    return { free: free.pointer, total: total.pointer };
  }

  launch(program: CudaProgram, args: readonly KernelArgument[]): void {
    const [gridX, gridY, gridZ] = program.grid;
    if (this.idle || gridX === 0 || gridY === 0 || gridZ === 0) return; // Nothing to compute: CUDA refuses an empty grid.
    const kernel = this.prepare(program);
    const sharedBytes = program.sharedBytes ?? 0;
    this.around(program.key, () => {
      // Where a tensor map lies among the parameters is known to the driver alone: then it takes each argument by its address.
      const byAddress = args.some((argument) => typeof argument === 'object' && 'tensorMap' in argument);
      this.argumentSize.writeUInt32LE(this.pack(args), 0);
      if (byAddress) for (const [i, offset] of this.offsets.entries()) this.places[i] = this.argumentsAddress + BigInt(offset);
      const [each, packed] = byAddress ? [this.placesAddress, 0] : [0, this.extraAddress];
      if (program.overlaps && this.capability >= 90) this.overlapping.launch(kernel.function, program, each, packed);
      else this.calls.launch(kernel.function, gridX, gridY, gridZ, program.block[0], program.block[1], program.block[2], sharedBytes, this.stream, each, packed);
    });
    this.launches++;
  }

  /** Compiles and loads a kernel, unless it is. */
  prepare(program: CudaProgram): LoadedKernel {
    const kernel = this.kernels.get(program.key) ?? this.load(program);
    const sharedBytes = program.sharedBytes ?? 0;
    if (sharedBytes > kernel.sharedBytes) {
      this.calls.setFunctionAttribute(kernel.function, MAX_DYNAMIC_SHARED, sharedBytes);
      kernel.sharedBytes = sharedBytes;
    }
    return kernel;
  }

  /** Makes a launch, or hands it to `onLaunch`. */
  around(name: string, launch: () => void): void {
    if (this.onLaunch) this.onLaunch(name, launch);
    else launch();
  }

  /** Queues a whole recorded graph. */
  launchGraph(executable: number): void {
    this.calls.launchGraph(executable, this.stream);
    this.launches++;
  }

  upload(block: Block, values: ArrayBufferView): void {
    if (!this.idle && values.byteLength > 0) this.calls.toDevice(block.address, bytesOf(values), values.byteLength, this.stream);
  }

  /** Outside of the stream's order: for memory that no queued work reads or writes. */
  uploadNow(block: Block, values: ArrayBufferView): void {
    if (!this.idle && values.byteLength > 0) this.calls.toDeviceNow(block.address, bytesOf(values), values.byteLength);
  }

  /** Waits for all queued work. */
  download(address: number, into: ArrayBufferView): void {
    if (into.byteLength > 0) this.calls.toHost(bytesOf(into), address, into.byteLength, this.stream);
    this.synchronize();
  }

  copy(to: number, from: number, bytes: number): void {
    if (!this.idle && bytes > 0) this.calls.copy(to, from, bytes, this.stream);
  }

  fill(address: number, byte: number, bytes: number): void {
    if (!this.idle && bytes > 0) this.calls.set(address, byte, bytes, this.stream);
  }

  synchronize(): void {
    this.calls.synchronize(this.stream);
  }

  /** Milliseconds that the GPU spends on what `work` queues; waits for it. */
  time(work: () => void): number {
    const from = this.mark();
    work();
    const to = this.mark();
    this.synchronize();
    const milliseconds = this.between(from, to);
    for (const event of [from, to]) this.calls.destroyEvent(event);
    return milliseconds;
  }

  /** An event that happens once all that is queued so far is done. */
  mark(): number {
    const out = new OutValue();
    this.calls.createEvent(out.buffer, 0);
    this.calls.record(out.pointer, this.stream);
    return out.pointer;
  }

  /** Milliseconds between two marks that have happened. */
  between(from: number, to: number): number {
    const out = new OutValue();
    this.calls.elapsed(out.buffer, from, to);
    return out.float;
  }

  private load(program: CudaProgram): LoadedKernel {
    const started = performance.now();
    const source = prelude + program.source();
    const options = compileOptions(this.architecture);
    const parts = [source, ...options, this.nvrtc.version, this.driverVersion];
    const cached = this.cache.get(parts, 'cubin');
    const cubin = cached ?? this.nvrtc.compile(source, `${program.key}.cu`, options).cubin;
    if (!cached) this.cache.put(parts, 'cubin', cubin);
    const out = new OutValue();
    this.calls.loadModule(out.buffer, cubin);
    this.calls.getFunction(out.buffer, out.pointer, program.entry);
    const kernel = { function: out.pointer, sharedBytes: 48 << 10 };
    this.kernels.set(program.key, kernel);
    this.compilation.milliseconds += performance.now() - started;
    this.compilation[cached ? 'fromCache' : 'kernels']++;
    return kernel;
  }

  /** Lays the arguments out as the kernel's parameter list does: each at a multiple of its own size. @returns the size */
  private pack(args: readonly KernelArgument[]): number {
    const view = this.argumentView;
    let offset = 0;
    this.offsets.length = 0;
    for (const argument of args) {
      const size = typeof argument === 'number' || 'f32' in argument || 'u32' in argument ? 4 : 'tensorMap' in argument ? argument.tensorMap.byteLength : 8;
      const alignment = Math.min(size, 64);
      offset = (offset + alignment - 1) & -alignment;
      this.offsets.push(offset);
      if (typeof argument === 'number') {
        view.setInt32(offset, argument, true);
      } else if ('tensorMap' in argument) {
        this.arguments.set(argument.tensorMap, offset);
      } else if ('pointer' in argument || 'i64' in argument) {
        const value = 'pointer' in argument ? argument.pointer : argument.i64;
        view.setUint32(offset, value % 0x100000000, true);
        view.setUint32(offset + 4, Math.floor(value / 0x100000000), true);
      } else if ('f32' in argument) {
        view.setFloat32(offset, argument.f32, true);
      } else {
        view.setUint32(offset, argument.u32, true);
      }
      offset += size;
    }
    return offset;
  }
}

/** Options for NVRTC. No fast math: division, square root and denormals stay exact; kernels name the approximations they use. */
export const compileOptions = (architecture: string): string[] => [`--gpu-architecture=${architecture}`, '--std=c++17', '--device-as-default-execution-space'];

const bytesOf = (values: ArrayBufferView): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
