import type { S3Options } from '../../store/s3-store.js';
import type { HubSettings } from './hub/hub-settings.js';

/** Where models and datasets may come from and are kept. */
export interface SourceSettings {
  /** Directories that `file:` URIs may lead to; relative ones start at the first. */
  dataRoots: readonly string[];
  /** Fetched files are kept here; may be emptied at any time. */
  cacheDirectory: string;
  /** @default the environment's */
  s3?: S3Options;
  /** @default the environment's, as huggingface_hub reads it */
  hub?: HubSettings;
}

/** Reports work under way: bytes, mostly. */
export type SourceProgress = (phase: string, done: number, total: number) => void;
