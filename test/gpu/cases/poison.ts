import { findBackend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../../engine/cuda/backend.js';

/** Fills every block of device memory with NaN before a kernel gets it, so that reading what nobody wrote shows. */
export function poisonAllocations(): void {
  const { device } = findBackend('cuda') as CudaBackend;
  device.memory.onAllocate = (block) => device.fill(block.address, 0xff, block.bytes);
}
