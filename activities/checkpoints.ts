import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Logger } from 'pino';
import { z } from 'zod';
import { namedArtifactSchema } from '../contracts/artifact-schema.js';
import type { NamedArtifact } from '../contracts/artifact.js';
import type { ArtifactStore } from '../store/artifact-store.js';
import { filesIn, mediaTypeOf } from './artifact-directory.js';

const manifestSchema = z.strictObject({
  step: z.int().nonnegative(),
  fence: z.int().positive(),
  files: z.array(namedArtifactSchema).min(1),
});
const fenceSchema = z.strictObject({ fence: z.int().positive() });

/** A newer attempt at the same training has started: this one must stop writing. */
export class StaleAttemptError extends Error {
  readonly code = 'stale_attempt';
  constructor(readonly fence: number, readonly newest: number | undefined) {
    super(`checkpoint: expected to be the newest attempt, got fencing token ${fence} where the newest is ${newest ?? 'gone'}`);
    this.name = 'StaleAttemptError';
  }
}

export interface CheckpointOptions {
  /** Identifies the training: those with one key are the same, number for number. */
  key: string;
  /** The run that trains, e.g. its run id. */
  owner: string;
  /** Complete checkpoints of this run that are kept; older ones are removed. */
  keep: number;
  log: Logger;
}

/**
 * The checkpoints of one training, as one attempt of one run at it sees them.
 *
 * `checkpoints/<key>/<owner>/fence.json` holds the fencing token of the run's newest attempt. A checkpoint is a folder
 * `checkpoints/<key>/<owner>/<step, 8 digits>-<fence, 6 digits>/` of files and a manifest.json that is created last: a folder
 * without it does not count. As folders are named by run and token, nobody writes to another's checkpoints; as all trainings of
 * a key are the same, any run goes on from anybody's. Two runs at once don't fence each other off: they would take turns for ever.
 * The files lie under their own keys, not among the objects named by content, so that removing a checkpoint cannot take a
 * file that a result of another training shares.
 */
export class Checkpoints {
  readonly #prefix: string;
  private constructor(
    private readonly store: ArtifactStore,
    private readonly options: CheckpointOptions,
    /** This attempt's token. */
    readonly fence: number,
  ) {
    this.#prefix = ownPrefix(options);
  }

  /** Starts an attempt: takes the run's next fencing token, after which its earlier attempts can no longer write. */
  static async open(store: ArtifactStore, options: CheckpointOptions): Promise<Checkpoints> {
    const fenceKey = `${ownPrefix(options)}fence.json`;
    for (;;) {
      const current = await store.read(fenceKey);
      const fence = (current ? parseFence(current.bytes) : 0) + 1;
      const bytes = Buffer.from(JSON.stringify({ fence }));
      if (await store.replace(fenceKey, bytes, current?.etag ?? null)) return new Checkpoints(store, options, fence);
    }
  }

  /**
   * Fetches the newest complete checkpoint into `<directory>/checkpoint-<step, 8 digits>`; one that is damaged or incomplete
   * is passed over, with a line in the log.
   * @returns its step and path, or undefined when there is none
   */
  async restore(directory: string): Promise<{ step: number; directory: string } | undefined> {
    const candidates = await manifestsUnder(this.store, trainingPrefix(this.options.key));
    for (const manifestKey of candidates.sort(by(stepOf)).reverse()) {
      try {
        const stored = await this.store.read(manifestKey);
        const manifest = manifestSchema.parse(JSON.parse(stored?.bytes.toString('utf8') ?? 'null'));
        const target = join(directory, `checkpoint-${digits(manifest.step, 8)}`);
        for (const file of manifest.files) {
          const path = join(target, file.name);
          await mkdir(dirname(path), { recursive: true });
          await this.store.getFile(file, path);
        }
        return { step: manifest.step, directory: target };
      } catch (err) {
        if (!isDamage(err)) throw err;
        this.options.log.warn({ checkpoint: manifestKey, err }, 'passed over a damaged checkpoint');
      }
    }
    return undefined;
  }

  /**
   * Stores the files of a directory as the checkpoint of a step, then removes the oldest ones above `keep`.
   * @throws StaleAttemptError when a newer attempt has started; the checkpoint then doesn't count
   */
  async save(step: number, directory: string): Promise<void> {
    await this.#assertNewest();
    const folder = `${this.#prefix}${digits(step, 8)}-${digits(this.fence, 6)}/`;
    const files: NamedArtifact[] = [];
    for (const { name, path } of await filesIn(directory)) {
      files.push({ name, ...(await this.store.putFileAt(folder + name, path, mediaTypeOf(name))) });
    }
    await this.#assertNewest();
    await this.store.create(`${folder}manifest.json`, Buffer.from(JSON.stringify({ step, fence: this.fence, files })));
    await this.#prune();
  }

  async #assertNewest(): Promise<void> {
    const current = await this.store.read(`${this.#prefix}fence.json`);
    const newest = current && parseFence(current.bytes);
    if (newest !== this.fence) throw new StaleAttemptError(this.fence, newest);
  }

  /** The oldest go by attempt, then by step: what an attempt writes counts more than the damaged one it passed over. */
  async #prune(): Promise<void> {
    const own = await manifestsUnder(this.store, this.#prefix);
    for (const manifest of own.sort(by(attemptOf)).slice(0, -this.options.keep)) await removeFolder(this.store, folderOf(manifest));
  }
}

/** Removes every checkpoint of a training that has its result. Fencing tokens stay, so that stale attempts still find out. */
export async function removeCheckpoints(store: ArtifactStore, key: string): Promise<void> {
  const left = (await store.list(trainingPrefix(key))).filter((name) => !name.endsWith('/fence.json'));
  const folders = new Set(left.map((name) => name.split('/').slice(0, 4).join('/') + '/'));
  for (const folder of folders) await removeFolder(store, folder);
}

/** The manifest goes first: a checkpoint that is being removed no longer counts. */
async function removeFolder(store: ArtifactStore, folder: string): Promise<void> {
  await store.remove(`${folder}manifest.json`);
  for (const key of await store.list(folder)) await store.remove(key);
}

const trainingPrefix = (key: string) => `checkpoints/${key}/`;
const ownPrefix = ({ key, owner }: CheckpointOptions) => `${trainingPrefix(key)}${owner}/`;

const manifestsUnder = async (store: ArtifactStore, prefix: string) =>
  (await store.list(prefix)).filter((key) => key.endsWith('/manifest.json'));

const folderOf = (manifest: string) => manifest.slice(0, -'manifest.json'.length);

/** `<step>-<fence>` of a manifest's folder, zero-padded. */
const stepOf = (manifest: string) => manifest.split('/').at(-2)!;
/** `<fence>-<step>`. */
const attemptOf = (manifest: string) => stepOf(manifest).split('-').reverse().join('-');

const by = (order: (key: string) => string) => (a: string, b: string) => (order(a) < order(b) ? -1 : 1);

const digits = (value: number, count: number) => String(value).padStart(count, '0');

const parseFence = (bytes: Buffer) => fenceSchema.parse(JSON.parse(bytes.toString('utf8'))).fence;

/** A checkpoint that cannot be read as written, as opposed to a store that cannot be reached. */
function isDamage(err: unknown): boolean {
  if (err instanceof z.ZodError || err instanceof SyntaxError) return true;
  const code = (err as { code?: unknown }).code;
  return code === 'missing' || code === 'corrupt';
}
