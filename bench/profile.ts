import { dispose, type TensorContainer } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import type { CudaProgram } from '../engine/cuda/program.js';

/** Keeps the device busy until the host has queued what is to be timed. Args: nanoseconds. */
const spinProgram: CudaProgram = {
  key: 'spin', entry: 'spin', grid: [1, 1, 1], block: [1, 1, 1],
  source: () => 'extern "C" __global__ void spin(i64 wait) { u64 start, now; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start)); do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now < start + wait); }',
};
const SPIN_NANOSECONDS = 60_000;

/** Time of each kernel of a run on the device, by name, from events around every launch; the gaps between launches do not count. */
export function launchTimes(backend: CudaBackend, run: () => TensorContainer): Map<string, { milliseconds: number; count: number }> {
  const { device } = backend;
  const marks: { name: string; from: number; to: number }[] = [];
  const observe = (name: string, launch: () => void) => {
    device.onLaunch = undefined;
    device.launch(spinProgram, [{ i64: SPIN_NANOSECONDS }]);
    device.onLaunch = observe;
    const from = device.mark();
    launch();
    marks.push({ name, from, to: device.mark() });
  };
  device.onLaunch = observe;
  const result = run();
  device.onLaunch = undefined;
  device.synchronize();
  dispose(result);
  const times = new Map<string, { milliseconds: number; count: number }>();
  for (const { name, from, to } of marks) {
    const entry = times.get(name) ?? { milliseconds: 0, count: 0 };
    entry.milliseconds += device.between(from, to);
    entry.count++;
    times.set(name, entry);
  }
  return times;
}

/** Lines of `launchTimes`, the costliest first. */
export function profileLaunches(backend: CudaBackend, run: () => TensorContainer): string[] {
  const times = launchTimes(backend, run);
  const total = [...times.values()].reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  return [
    `total ${total.toFixed(1)} ms`,
    ...[...times].sort(([, a], [, b]) => b.milliseconds - a.milliseconds).map(([name, { milliseconds, count }]) => `${milliseconds.toFixed(2)} ms  ${count} x ${((1000 * milliseconds) / count).toFixed(1)} us  ${name}`),
  ];
}
