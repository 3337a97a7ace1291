import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

interface ProcessRow {
  pid: number;
  parent: number;
  group: number;
  /** `Z…` is one that has ended and is not reaped yet. */
  state: string;
}

const processes = (): ProcessRow[] =>
  execFileSync('ps', ['-A', '-o', 'pid=,ppid=,pgid=,stat='], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .map(([pid, parent, group, state]) => ({ pid: Number(pid), parent: Number(parent), group: Number(group), state }));

/** The living child that leads a process group: the engine process of a worker, not the TypeScript loader's compiler. */
export const trainerOf = (worker: number): number | undefined =>
  processes().find(({ pid, parent, group, state }) => parent === worker && group === pid && !state.startsWith('Z'))?.pid;

export const alive = (pid: number): boolean => processes().some((row) => row.pid === pid && !row.state.startsWith('Z'));

/** Waits until a process has ended. */
export async function gone(pid: number): Promise<void> {
  while (alive(pid)) await sleep(20);
}
