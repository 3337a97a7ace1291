import { z } from 'zod';
import type { ArtifactRef, NamedArtifact } from './artifact.js';

/** Lower-case hex SHA-256. */
export const sha256Schema = z.string().regex(/^[0-9a-f]{64}$/, 'expected 64 lower-case hex digits');

export const artifactRefSchema: z.ZodType<ArtifactRef> = z.strictObject({
  uri: z.string().min(1),
  sha256: sha256Schema,
  bytes: z.int().nonnegative(),
  mediaType: z.string().min(1),
});

export const namedArtifactSchema: z.ZodType<NamedArtifact> = z.strictObject({
  name: z.string().min(1),
  uri: z.string().min(1),
  sha256: sha256Schema,
  bytes: z.int().nonnegative(),
  mediaType: z.string().min(1),
});
