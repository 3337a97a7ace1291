import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { directories, loadLibrary } from '../../engine/cuda/libraries.js';

describe('CUDA libraries', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'temper-cuda-'));
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(folder, { recursive: true });
  });

  it('are looked for in CUDA_HOME and in the wheels of the active environment', () => {
    const toolkit = join(folder, 'cuda', 'lib64');
    const wheels13 = join(folder, 'venv', 'lib', 'python3.12', 'site-packages', 'nvidia', 'cu13', 'lib');
    const wheels12 = join(folder, 'venv', 'lib', 'python3.12', 'site-packages', 'nvidia', 'cublas', 'lib');
    for (const path of [toolkit, wheels13, wheels12]) mkdirSync(path, { recursive: true });
    vi.stubEnv('CUDA_HOME', join(folder, 'cuda'));
    vi.stubEnv('VIRTUAL_ENV', join(folder, 'venv'));
    expect(directories('cublasLt')).toEqual(expect.arrayContaining([toolkit, wheels13, wheels12]));
  });

  it('that are missing are named with where they were looked for and how to get them', () => {
    const path = join(folder, 'libnvrtc.so.13');
    vi.stubEnv('TEMPER_LIBNVRTC', path);
    expect(() => loadLibrary('nvrtc')).toThrow(expect.objectContaining({ code: 'library_missing' }));
    expect(() => loadLibrary('nvrtc')).toThrow(path);
    expect(() => loadLibrary('nvrtc')).toThrow('pip install nvidia-cuda-nvrtc');
  });

  it('that are given by path are not searched for elsewhere', () => {
    const path = join(folder, 'not-a-library.so');
    writeFileSync(path, 'text');
    expect(() => loadLibrary('driver', { driver: path })).toThrow(path);
  });
});
