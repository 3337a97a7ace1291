import { describe, expect, it } from 'vitest';
import { cudaFindings, type CudaFacts } from '../../cli/doctor/cuda.js';
import { inspectCuda } from '../../engine/cuda/inspect.js';

const complete: CudaFacts = {
  driver: { version: '580.65.06, CUDA 13.0', path: '/usr/lib/libcuda.so.1' },
  nvrtc: { version: '13.0', path: '/usr/lib/libnvrtc.so.13' },
  cublasLt: { version: '13.1.0', path: '/usr/lib/libcublasLt.so.13' },
  cards: [{ name: 'NVIDIA H100 80GB HBM3', capability: '9.0', totalBytes: 79.2 * 2 ** 30 }],
};

describe("doctor's look at CUDA", () => {
  it('names driver, card, memory and libraries with their versions and files', () => {
    expect(cudaFindings(complete).map(({ name, state, detail }) => `${state} ${name}: ${detail}`)).toEqual([
      'ok NVIDIA driver: 580.65.06, CUDA 13.0 (/usr/lib/libcuda.so.1)',
      'ok GPU: NVIDIA H100 80GB HBM3, 79.2 GiB, compute capability 9.0',
      'ok NVRTC: 13.0 (/usr/lib/libnvrtc.so.13)',
      'ok cublasLt: 13.1.0 (/usr/lib/libcublasLt.so.13)',
    ]);
  });

  it('says what is missing and how to get it, all at once', () => {
    const missing = { problem: 'expected to load it, got none', advice: 'pip install it' };
    const findings = cudaFindings({ ...complete, nvrtc: missing, cublasLt: missing, cards: [{ name: 'GeForce GTX 1080', capability: '6.1', totalBytes: 8 * 2 ** 30 }] });
    expect(findings.map(({ state }) => state)).toEqual(['ok', 'problem', 'problem', 'problem']);
    expect(findings.map(({ remedy }) => remedy ?? '').join('\n')).toMatch(/capability 8\.0[\s\S]+pip install it[\s\S]+pip install it/);
  });

  it('finds no fault with a machine that has no NVIDIA driver', () => {
    const findings = cudaFindings({ ...complete, driver: { problem: 'no driver', advice: 'install one' }, cards: [] });
    expect(findings).toEqual([{ name: 'GPU', state: 'ok', detail: 'none is used: no driver' }]);
  });

  it('asks for a card where the driver shows none', () => {
    expect(cudaFindings({ ...complete, cards: [] })[1]).toMatchObject({ state: 'problem', remedy: expect.stringContaining('CUDA_VISIBLE_DEVICES') as string });
  });
});

describe('inspectCuda', () => {
  it('tells of each library by itself, with the place that was named and the advice apart', () => {
    const found = inspectCuda({ driver: '/nowhere/libcuda.so', nvrtc: '/nowhere/libnvrtc.so', cublasLt: '/nowhere/libcublasLt.so' });
    expect(found.cards).toEqual([]);
    for (const [library, advice] of [[found.driver, 'NVIDIA driver'], [found.nvrtc, 'nvidia-cuda-nvrtc'], [found.cublasLt, 'nvidia-cublas']] as const) {
      expect(library).toMatchObject({ problem: expect.stringContaining('/nowhere/') as string, advice: expect.stringContaining(advice) as string });
      expect('problem' in library && library.problem).not.toContain(advice);
    }
  });
});
