import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../../engine/cuda/device.js';
import { LaunchRecordings, type Launch } from '../../engine/cuda/recorded-launches.js';

/** A device that counts what it is asked for. */
function fakeDevice() {
  const calls: string[] = [];
  let handles = 0;
  const driver = {
    call: (declaration: string) => (...args: unknown[]) => {
      calls.push(/(cu\w+)\(/.exec(declaration)![1]);
      for (const argument of args) if (Buffer.isBuffer(argument)) argument.writeBigUInt64LE(BigInt(++handles));
    },
  };
  const device = {
    driver, stream: 1, synchronize: () => undefined, prepare: ({ key }: Launch['program']) => void calls.push(`prepare ${key}`), launch: ({ key }: Launch['program']) => void calls.push(`launch ${key}`),
  };
  return { device: device as unknown as CudaDevice, calls, count: (name: string) => calls.filter((call) => call === name).length };
}

const launch = (key: string, address: number, x = 1): Launch => ({
  program: { key, entry: key, source: () => '', grid: [x, 1, 1], block: [32, 1, 1] }, arguments: [{ pointer: address }, { f32: 0.5 }, 7, { tensorMap: Uint8Array.of(address, 2) }],
});

describe('LaunchRecordings', () => {
  it('records launches once, with their kernels loaded before', () => {
    const { device, calls } = fakeDevice(), recordings = new LaunchRecordings(device);
    const first = recordings.of([launch('a', 512), launch('b', 1024)]);
    expect(recordings.of([launch('a', 512), launch('b', 1024)])).toBe(first);
    expect(calls).toEqual(['prepare a', 'prepare b', 'cuStreamBeginCapture_v2', 'launch a', 'launch b', 'cuStreamEndCapture', 'cuGraphInstantiateWithFlags', 'cuGraphDestroy']);
  });

  it('records anew what differs in a kernel, its grid, an argument or the order', () => {
    const { device } = fakeDevice(), recordings = new LaunchRecordings(device);
    const all = [[launch('a', 512), launch('b', 512)], [launch('a', 512), launch('c', 512)], [launch('a', 512), launch('b', 512, 2)], [launch('a', 512), launch('b', 1024)], [launch('b', 512), launch('a', 512)], [launch('a', 512)]];
    expect(new Set(all.map((launches) => recordings.of(launches))).size).toBe(all.length);
  });

  it('gives up those that were asked for longest ago', () => {
    const { device, count } = fakeDevice(), recordings = new LaunchRecordings(device);
    const made = [1, 2, 3, 4, 5, 6].map((address) => recordings.of([launch('a', address)]));
    recordings.of([launch('a', 1)]);
    for (const recording of made) recordings.release(recording);
    recordings.trim();
    expect(count('cuGraphExecDestroy')).toBe(2);
    expect([1, 4, 5, 6].map((address) => recordings.of([launch('a', address)]))).toEqual([made[0], made[3], made[4], made[5]]);
    expect(recordings.of([launch('a', 2)])).not.toBe(made[1]);
    expect(count('cuGraphInstantiateWithFlags')).toBe(7);
  });

  it('gives up none that is still replayed, however old', () => {
    const { device, count } = fakeDevice(), recordings = new LaunchRecordings(device);
    const held = recordings.of([launch('a', 1)]);
    for (const address of [2, 3, 4, 5, 6]) recordings.release(recordings.of([launch('a', address)]));
    recordings.trim();
    expect(count('cuGraphExecDestroy')).toBe(1);
    expect(recordings.of([launch('a', 1)])).toBe(held);
    recordings.release(held);
    recordings.trim();
    expect(count('cuGraphExecDestroy')).toBe(2);
  });
});
