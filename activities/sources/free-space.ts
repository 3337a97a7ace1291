import { mkdir, statfs } from 'node:fs/promises';

/** A disk without room for what is to be fetched. Asking again may help, once there is some. */
export class NoSpaceError extends Error {
  readonly code = 'no_space';
  constructor(message: string) {
    super(message);
    this.name = 'NoSpaceError';
  }
}

/** @throws NoSpaceError when a directory's disk has less room than `bytes`. @param advice what to set to go elsewhere */
export async function requireSpace(directory: string, bytes: number, advice: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < bytes) throw new NoSpaceError(`${directory}: expected ${gigabytes(bytes)} free to fetch into it, got ${gigabytes(bavail * bsize)}; make room, or name another place with ${advice}`);
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
