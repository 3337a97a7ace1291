import { findBackend, registerBackend, registerKernel, type KernelConfig } from '@tensorflow/tfjs-core';
import { registerBackendProvider } from '../tensor/backends.js';
import { registerDecoder } from '../tensor/decoder.js';
import { registerWeightUploader } from '../tensor/weight-upload.js';
import { CudaBackend, type BackendOptions } from './backend.js';
import { CudaDecoder } from './decoder.js';
import { adamWKernel } from './kernels/AdamW.js';
import { addGradientsKernel } from './kernels/AddGradients.js';
import { productKernels } from './kernels/batch-mat-mul.js';
import { blockOpKernels } from './kernels/block-ops.js';
import { causalAttentionGradKernel, causalAttentionKernel } from './kernels/CausalAttention.js';
import { dequantizeKernel } from './kernels/Dequantize.js';
import { elementwiseKernels } from './kernels/elementwise.js';
import { embeddingKernel } from './kernels/Embedding.js';
import { layoutKernels } from './kernels/layout.js';
import { linearCrossEntropyKernel } from './kernels/LinearCrossEntropy.js';
import { loraGradKernel, quantizedLinearGradInputKernel, quantizedLinearKernel } from './kernels/QuantizedLinear.js';
import { reductionKernels } from './kernels/reductions.js';
import { uniformNoiseKernel } from './kernels/UniformNoise.js';
import { CudaWeightUploader } from './weight-uploader.js';

/** Every kernel of the backend; a new one is added here. */
export const cudaKernels: readonly KernelConfig[] = [
  adamWKernel,
  addGradientsKernel,
  ...blockOpKernels,
  causalAttentionGradKernel,
  causalAttentionKernel,
  dequantizeKernel,
  ...elementwiseKernels,
  embeddingKernel,
  ...layoutKernels,
  linearCrossEntropyKernel,
  loraGradKernel,
  ...productKernels,
  quantizedLinearGradInputKernel,
  quantizedLinearKernel,
  ...reductionKernels,
  uniformNoiseKernel,
];

/**
 * Offers the backend `cuda` to `selectBackend`, before all others. Never throws: without a GPU or one of CUDA's libraries the
 * provider says why. The device is opened when the backend is first selected.
 */
export function registerCudaBackend(options: BackendOptions = {}): void {
  registerBackendProvider(
    'cuda',
    () => {
      try {
        const backend = (findBackend('cuda') as CudaBackend | null) ?? start(options);
        return Promise.resolve({ available: true, description: describeDevice(backend) });
      } catch (error) {
        return Promise.resolve({ available: false, reason: error instanceof Error ? error.message : String(error) });
      }
    },
    { preferred: true },
  );
}

function start(options: BackendOptions): CudaBackend {
  const backend = new CudaBackend(options);
  void backend.device.nvrtc; // A missing compiler is told now, not at the first kernel.
  registerBackend('cuda', () => backend);
  for (const kernel of cudaKernels) registerKernel(kernel);
  registerDecoder('cuda', (model, decoding) => (CudaDecoder.fits(model) ? new CudaDecoder(backend, model, decoding) : undefined));
  registerWeightUploader('cuda', () => new CudaWeightUploader(backend));
  return backend;
}

/** One line for people. */
function describeDevice({ device, products }: CudaBackend): string {
  const { free, total } = device.memoryInfo();
  const gibibytes = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  return `cuda: ${device.name} (compute capability ${(device.capability / 10).toFixed(1)}), ${gibibytes(free)} of ${gibibytes(total)} GiB free, CUDA ${device.driverVersion}, NVRTC ${device.nvrtc.version}, cublasLt ${products.version}`;
}
