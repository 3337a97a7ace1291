import type { CudaDevice } from './device.js';
import { OutValue } from './driver.js';

/** Relaxed: other calls of this thread go on as usual. */
const CAPTURE_RELAXED = 2;

/** Launches recorded as a CUDA graph. They use memory that the caller owns; nothing is allocated in `work`. */
export class RecordedLaunches {
  private readonly executable: number;

  constructor(
    private readonly device: CudaDevice,
    work: () => void,
  ) {
    const { driver, stream } = device;
    const graph = new OutValue(), executable = new OutValue();
    driver.call('int cuStreamBeginCapture_v2(uint64, int)')(stream, CAPTURE_RELAXED);
    try {
      work();
    } finally {
      driver.call('int cuStreamEndCapture(uint64, _Out_ void *)')(stream, graph.buffer);
    }
    driver.call('int cuGraphInstantiateWithFlags(_Out_ void *, uint64, uint64)')(executable.buffer, graph.pointer, 0);
    driver.call('int cuGraphDestroy(uint64)')(graph.pointer);
    this.executable = executable.pointer;
  }

  replay(): void {
    this.device.launchGraph(this.executable);
  }

  /** Waits for replays in flight. */
  dispose(): void {
    this.device.synchronize();
    this.device.driver.call('int cuGraphExecDestroy(uint64)')(this.executable);
  }
}
