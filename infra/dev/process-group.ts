/** A child in a process group of its own, so that it and all it starts can be ended together. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { identify, isRunning, type ProcessIdentity } from './process-identity.js';

export interface ProcessSpec {
  command: string;
  args: string[];
  /** Added to this process's own environment. */
  env?: Record<string, string>;
  /** Standard output and error are appended here. */
  logFile: string;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface ProcessGroup {
  readonly identity: ProcessIdentity;
  /** Settles when the first process of the group has ended. */
  readonly ended: Promise<Exit>;
  /** SIGTERM, and SIGKILL for what is left of the group after `graceMs`. */
  stop(graceMs: number): Promise<void>;
  /** SIGKILL now; for an exit handler, which cannot wait. */
  killNow(): void;
}

/** How long a group may still be listed after SIGKILL, e.g. as a zombie that nobody has collected. */
const killMs = 2_000;

/** @throws when the program cannot be started */
export async function startGroup({ command, args, env, logFile }: ProcessSpec): Promise<ProcessGroup> {
  mkdirSync(dirname(logFile), { recursive: true });
  const log = openSync(logFile, 'a');
  const child = spawn(command, args, { detached: true, stdio: ['ignore', log, log], env: { ...process.env, ...env } });
  closeSync(log);
  await started(child);
  const pid = child.pid!;
  const identity = identify(pid) ?? { pid, started: '' };
  const ended = new Promise<Exit>((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
  return {
    identity,
    ended,
    stop: (graceMs) => stopGroup(pid, graceMs),
    killNow: () => signalGroup(pid, 'SIGKILL'),
  };
}

/** Ends the groups that an earlier, dead process left behind. A process that only reuses the id is left alone. */
export async function stopLeftOver(identities: ProcessIdentity[], graceMs: number): Promise<number> {
  const left = identities.filter(isRunning);
  await Promise.all(left.map(({ pid }) => stopGroup(pid, graceMs)));
  return left.length;
}

async function stopGroup(pid: number, graceMs: number): Promise<void> {
  signalGroup(pid, 'SIGTERM');
  if (await groupEnds(pid, graceMs)) return;
  signalGroup(pid, 'SIGKILL');
  await groupEnds(pid, killMs);
}

/** Waits for the group's end; false when it is still there after `ms`. */
async function groupEnds(pid: number, ms: number): Promise<boolean> {
  const deadline = performance.now() + ms;
  while (groupExists(pid)) {
    if (performance.now() > deadline) return false;
    await sleep(50);
  }
  return true;
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function groupExists(pid: number): boolean {
  try {
    process.kill(-pid, 0);
    return true;
  } catch (error) {
    // EPERM on macOS: only zombies are left.
    if (['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}

const started = (child: ChildProcess): Promise<void> =>
  new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
