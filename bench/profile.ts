import { dispose, type TensorContainer } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import type { CudaProgram } from '../engine/cuda/program.js';

/** Keeps the device busy until the host has queued what is to be timed. Args: nanoseconds. */
const spinProgram: CudaProgram = {
  key: 'spin', entry: 'spin', grid: [1, 1, 1], block: [1, 1, 1],
  source: () => 'extern "C" __global__ void spin(i64 wait) { u64 start, now; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start)); do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now < start + wait); }',
};
const SPIN_NANOSECONDS = 60_000;

/** Time of each kernel of a run on the device, by events around every launch; the gaps between launches do not count. Lines, the costliest first. */
export function profileLaunches(backend: CudaBackend, run: () => TensorContainer): string[] {
  const { device } = backend;
  const { driver, stream } = device;
  const create = driver.call('int cuEventCreate(_Out_ void *, uint32)'), record = driver.call('int cuEventRecord(uint64, uint64)'), elapsed = driver.call('int cuEventElapsedTime(_Out_ void *, uint64, uint64)');
  const event = (): bigint => {
    const out = Buffer.alloc(8);
    create(out, 0);
    return out.readBigUInt64LE();
  };
  const marks: { name: string; from: bigint; to: bigint }[] = [];
  const observe = (name: string, launch: () => void) => {
    const mark = { name, from: event(), to: event() };
    device.onLaunch = undefined;
    device.launch(spinProgram, [{ i64: SPIN_NANOSECONDS }]);
    device.onLaunch = observe;
    // The spin's launch used the argument buffer: what is timed packs its own again.
    record(mark.from, stream);
    launch();
    record(mark.to, stream);
    marks.push(mark);
  };
  device.onLaunch = observe;
  const result = run();
  device.onLaunch = undefined;
  device.synchronize();
  dispose(result);
  const times = new Map<string, { milliseconds: number; count: number }>();
  for (const { name, from, to } of marks) {
    const out = Buffer.alloc(8);
    elapsed(out, from, to);
    const entry = times.get(name) ?? { milliseconds: 0, count: 0 };
    entry.milliseconds += out.readFloatLE();
    entry.count++;
    times.set(name, entry);
  }
  const total = [...times.values()].reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  return [
    `total ${total.toFixed(1)} ms`,
    ...[...times].sort(([, a], [, b]) => b.milliseconds - a.milliseconds).map(([name, { milliseconds, count }]) => `${milliseconds.toFixed(2)} ms  ${count} x ${((1000 * milliseconds) / count).toFixed(1)} us  ${name}`),
  ];
}
