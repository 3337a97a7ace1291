import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { trainerEventSchema, type TrainerEvent } from '../../contracts/trainer-messages.js';

/** The engine process. */
export const trainerProgram = fileURLToPath(new URL('../../workers/trainer.ts', import.meta.url));

export interface EngineRun {
  events: TrainerEvent[];
  exitCode: number | null;
}

/** Runs a job in an engine process until it ends; every line of its stdout must be an event. */
export async function runEngine(job: object, onEvent: (event: TrainerEvent, child: ChildProcess) => void = () => {}): Promise<EngineRun> {
  const child = spawn(process.execPath, ['--import', 'tsx', trainerProgram], { stdio: ['pipe', 'pipe', 'ignore'] });
  const exited = once(child, 'close');
  child.stdin.on('error', () => {}); // it ended before the job was written
  child.stdin.write(`${JSON.stringify(job)}\n`);
  const events: TrainerEvent[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    const event = trainerEventSchema.parse(JSON.parse(line));
    events.push(event);
    onEvent(event, child);
  }
  const [exitCode] = (await exited) as [number | null];
  return { events, exitCode };
}
