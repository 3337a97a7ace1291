/** The file that says which process runs a development stack in this folder, and what it has started. */
import { renameSync, writeFileSync } from 'node:fs';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { isRunning } from './process-identity.js';

const identitySchema = z.object({ pid: z.int().positive(), started: z.string() });

const stackStateSchema = z.object({
  owner: identitySchema,
  /** host:port of the Temporal server's front end. */
  address: z.string(),
  uiUrl: z.string(),
  /** Process groups, in the order they were started. */
  processes: z.array(identitySchema.extend({ name: z.string() })),
});
export type StackState = z.infer<typeof stackStateSchema>;

/** The state left in the file, if there is any; a damaged file counts as none. */
export async function readState(file: string): Promise<StackState | undefined> {
  const text = await readFile(file, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    return stackStateSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** The state of a stack whose owner is running, if there is one. */
export async function readLiveState(file: string): Promise<StackState | undefined> {
  const state = await readState(file);
  return state && isRunning(state.owner) ? state : undefined;
}

/** Takes the file for a new owner; false when another process was quicker. */
export async function claimState(file: string, state: StackState): Promise<boolean> {
  await mkdir(dirname(file), { recursive: true });
  const mine = `${file}.${process.pid}`;
  await writeFile(mine, JSON.stringify(state));
  try {
    await link(mine, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await rm(mine, { force: true });
  }
}

/** Whole or not at all, and at once: a process that has just been started is on record before anything else happens. */
export function writeState(file: string, state: StackState): void {
  const partial = `${file}.${process.pid}`;
  writeFileSync(partial, `${JSON.stringify(state, undefined, 2)}\n`);
  renameSync(partial, file);
}

export const removeState = (file: string): Promise<void> => rm(file, { force: true });
