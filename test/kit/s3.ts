/** What storage tests know of the S3 server that runs for them. */
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { randomUUID } from 'node:crypto';
import { describe, inject } from 'vitest';
import type { S3Options } from '../../store/s3-store.js';
import type { S3Server } from './s3-server.js';

const server = inject('s3');

/** A describe block with the server; skipped, with the reason in its name, on a machine that cannot have one. */
export function describeS3(name: string, body: (s3: S3Server) => void): void {
  if ('missing' in server) describe.skip(`${name} (skipped: ${server.missing})`, () => body({ endpoint: '', accessKeyId: '', secretAccessKey: '' }));
  else describe(name, () => body(server));
}

/** Options that point an S3Store at the server. */
export const s3Options = ({ endpoint, ...credentials }: S3Server): S3Options => ({ endpoint, region: 'us-east-1', credentials });

export const s3Client = (s3: S3Server): S3Client => new S3Client({ ...s3Options(s3), forcePathStyle: true });

/** Creates a bucket with a name of its own and returns the name. */
export async function newBucket(s3: S3Server): Promise<string> {
  const Bucket = `temper-${randomUUID()}`;
  await s3Client(s3).send(new CreateBucketCommand({ Bucket }));
  return Bucket;
}
