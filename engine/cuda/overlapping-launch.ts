import koffi from 'koffi';
import type { Driver } from './driver.js';
import type { CudaProgram } from './program.js';

/** CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION */
const PROGRAMMATIC_SERIALIZATION = 6;

/**
 * Launches a kernel that may begin before the one before it has ended (programmatic dependent launch, compute capability 9.0 on).
 * Such a kernel calls `waitForPrevious` before it touches what an earlier one writes or reads.
 */
export class OverlappingLaunch {
  /** CUlaunchConfig: grid (3 × u32), block (3 × u32), shared bytes (u32), stream at 32, attributes at 40, their number (u32) at 48. */
  private readonly config = Buffer.alloc(56);
  /** CUlaunchAttribute: its id (u32), the value at 8. */
  private readonly attribute = Buffer.alloc(72);
  private readonly call: (...args: unknown[]) => void;

  constructor(driver: Driver, stream: number) {
    this.call = driver.call('int cuLaunchKernelEx(const void *, uint64, uint64, uint64)');
    this.attribute.writeUInt32LE(PROGRAMMATIC_SERIALIZATION, 0);
    this.attribute.writeInt32LE(1, 8);
    this.config.writeBigUInt64LE(BigInt(stream), 32);
    this.config.writeBigUInt64LE(koffi.address(this.attribute), 40);
    this.config.writeUInt32LE(1, 48);
  }

  launch(kernel: number, { grid, block, sharedBytes = 0 }: CudaProgram, parameters: number, extra: number): void {
    [...grid, ...block, sharedBytes].forEach((value, i) => this.config.writeUInt32LE(value, 4 * i));
    this.call(this.config, kernel, parameters, extra);
  }
}

/** What such a kernel's source calls; on older cards, where nothing overlaps, both do nothing. */
export const overlapFunctions = /* cuda */ `
/** Returns when the kernel before this one has ended and its writes can be seen. */
__device__ __forceinline__ void waitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/** Lets the next kernel's blocks begin where there is room. */
__device__ __forceinline__ void letNextBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
`;
