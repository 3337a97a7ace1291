import type { CudaDevice } from './device.js';
import { OutValue } from './driver.js';
import type { CudaProgram, KernelArgument } from './program.js';

/** Relaxed: other calls of this thread go on as usual. */
const CAPTURE_RELAXED = 2;

/** A launch, ready to be made again. */
export interface Launch {
  program: CudaProgram;
  arguments: KernelArgument[];
}

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

/** Recordings kept that nobody holds; each takes about a megabyte. */
const KEPT = 4;

/**
 * Recordings by what they launch. The same kernels with the same arguments are the same work, whoever asks: the next batch of a shape,
 * whose buffers come to lie where the last one's lay, goes on with its recording.
 */
export class LaunchRecordings {
  /** Least recently asked for first. */
  private readonly recordings = new Map<string, RecordedLaunches>();
  /** Those that may be replayed. Nobody shares one: who holds memory at the same time has it at other addresses. */
  private readonly held = new Set<RecordedLaunches>();

  constructor(private readonly device: CudaDevice) {}

  /** The caller holds the recording until it releases it. */
  of(launches: readonly Launch[]): RecordedLaunches {
    const key = launches.map(signature).join('\n');
    let recording = this.recordings.get(key);
    if (!recording) {
      // Compiles and loads what will be launched, as that cannot be done while it is recorded.
      for (const { program } of launches) this.device.prepare(program);
      recording = new RecordedLaunches(this.device, () => {
        for (const { program, arguments: args } of launches) this.device.launch(program, args);
      });
    }
    this.recordings.delete(key);
    this.recordings.set(key, recording);
    this.held.add(recording);
    return recording;
  }

  /** It is not replayed by the caller any more, but may still be in flight. */
  release(recording: RecordedLaunches): void {
    this.held.delete(recording);
  }

  /** Gives up the oldest of those that nobody holds. To be called when no replay is in flight, which it would wait for. */
  trim(): void {
    const unheld = [...this.recordings].filter(([, recording]) => !this.held.has(recording));
    for (const [key, recording] of unheld.slice(0, Math.max(0, unheld.length - KEPT))) {
      recording.dispose();
      this.recordings.delete(key);
    }
  }
}

/** Everything that a launch depends on; the kernel says how its arguments are read. */
const signature = ({ program: { key, grid, block, sharedBytes }, arguments: args }: Launch): string => `${key} ${grid.join(' ')} ${block.join(' ')} ${sharedBytes} ${args.map(valueOf).join(' ')}`;

function valueOf(argument: KernelArgument): number | string {
  if (typeof argument === 'number') return argument;
  if ('pointer' in argument) return argument.pointer;
  if ('f32' in argument) return argument.f32;
  if ('i64' in argument) return argument.i64;
  return 'u32' in argument ? argument.u32 : Buffer.from(argument.tensorMap).toString('hex');
}
