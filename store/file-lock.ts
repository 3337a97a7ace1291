import { mkdir, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StoreError } from './store-error.js';

/** A holder on another machine counts as dead after this; the lock is only ever held for one small write. */
const staleAfterMs = 30_000;

/**
 * Runs `body` while no other process runs one under the same directory.
 *
 * The directory holds numbered files. The highest is the lock: taken over by creating the next number exclusively, once it is
 * marked done or its holder is dead. The highest is never removed, so that two processes which both find a dead holder
 * cannot both succeed it, and one that looked long ago notices.
 */
export async function withLock<T>(directory: string, body: () => Promise<T>): Promise<T> {
  await mkdir(directory, { recursive: true });
  const turn = await acquire(directory);
  try {
    return await body();
  } finally {
    await writeFile(join(directory, String(turn)), 'done');
    const older = (await turns(directory)).filter((other) => other < turn);
    await Promise.all(older.map((other) => rm(join(directory, String(other)), { force: true })));
  }
}

async function acquire(directory: string): Promise<number> {
  for (let wait = 1, waited = 0; waited < 2 * staleAfterMs; wait = Math.min(wait * 2, 50), waited += wait) {
    const highest = (await turns(directory)).at(-1) ?? 0;
    if (highest === 0 || (await isFree(join(directory, String(highest))))) {
      const mine = highest + 1;
      if (await createHeld(join(directory, String(mine)))) {
        if ((await turns(directory)).at(-1) === mine) return mine;
        await rm(join(directory, String(mine)), { force: true });
      }
    }
    await sleep(wait + Math.random() * wait);
  }
  throw new StoreError('failed', directory, `the lock stays taken for ${(2 * staleAfterMs) / 1000} s`);
}

const turns = async (directory: string): Promise<number[]> => (await readdir(directory)).map(Number).sort((a, b) => a - b);

async function createHeld(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx');
    await file.writeFile(`${process.pid} ${hostname()}`).finally(() => file.close());
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function isFree(path: string): Promise<boolean> {
  try {
    const text = await readFile(path, 'utf8');
    if (text === 'done') return true;
    const [pid, host] = text.split(' ');
    if (host === hostname()) return !isAlive(Number(pid));
    return Date.now() - (await stat(path)).mtimeMs > staleAfterMs; // also the empty file of a holder that died in creating it
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false; // outdated listing: look again
    throw error;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
