import { getBackend } from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { registerBackendProvider, selectBackend } from '../../engine/tensor/backends.js';

describe('selectBackend', () => {
  it.each(['cpu', 'wasm'] as const)('makes %s the current backend', async (name) => {
    expect((await selectBackend(name)).name).toBe(name);
    expect(getBackend()).toBe(name);
  });

  it('takes the best one when none is named, and says in one line what it computes on', async () => {
    const { name, description } = await selectBackend();
    expect(['tensorflow', 'wasm']).toContain(name);
    expect(description).toMatch(name === 'tensorflow' ? /^tensorflow: libtensorflow [\d.]+ on the (CPU|GPU)/ : /^wasm: .*tensorflow is not used: .+/);
    expect(description).not.toContain('\n');
  });

  it('refuses a named backend that is not there, with the reason', async () => {
    await expect(selectBackend('cuda')).rejects.toMatchObject({ failure: 'invalidInput', code: 'no_backend', message: 'backend: cuda is not used: not part of this program' });
  });

  it('goes past a preferred backend that is not there, and says why', async () => {
    registerBackendProvider('cuda', () => Promise.resolve({ available: false, reason: 'no NVIDIA driver' }), { preferred: true });
    const { name, description } = await selectBackend();
    expect(name).not.toBe('cuda');
    expect(description).toContain('cuda is not used: no NVIDIA driver');
  });
});
