import type { S3ServiceException } from '@aws-sdk/client-s3';
import { StoreError, type StoreErrorCode } from './store-error.js';

const codes: Record<string, StoreErrorCode> = {
  NoSuchBucket: 'no_bucket',
  NoSuchKey: 'missing', NotFound: 'missing',
  AccessDenied: 'denied', InvalidAccessKeyId: 'denied', SignatureDoesNotMatch: 'denied', ExpiredToken: 'denied',
  InvalidToken: 'denied', Forbidden: 'denied', AllAccessDisabled: 'denied', CredentialsProviderError: 'denied',
  XAdminUserNotFound: 'denied', // versitygw's InvalidAccessKeyId
};
const networkCodes = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT', 'EPIPE']);

/** The HTTP status of an SDK error, undefined when there was no answer. */
export const statusOf = (error: unknown): number | undefined => (error as Partial<S3ServiceException>).$metadata?.httpStatusCode;

/** An SDK error in the store's words. StoreErrors and aborts pass. */
export function translateS3(error: unknown, subject: string, endpoint: string): unknown {
  const { name, code, message, errors } = error as Error & { code?: string; errors?: { code?: string }[] };
  if (error instanceof StoreError || name === 'AbortError') return error;
  const network = [code, name, ...(errors ?? []).map((inner) => inner.code)].find((value) => value && networkCodes.has(value));
  if (network || name === 'TimeoutError') return new StoreError('unreachable', subject, `no answer from ${endpoint} (${network ?? message})`, { cause: error });
  if (message.startsWith('Checksum mismatch')) return new StoreError('corrupt', subject, 'the bytes received do not have the checksum that the server names', { cause: error });
  const known = codes[name] ?? (statusOf(error) === 403 ? 'denied' : 'failed');
  return new StoreError(known, subject, describe(known, name, message, subject), { cause: error });
}

function describe(code: StoreErrorCode, name: string, message: string, subject: string): string {
  switch (code) {
    case 'no_bucket':
      return `the bucket ${/^s3:\/\/([^/]+)/.exec(subject)?.[1] ?? ''} does not exist`;
    case 'missing':
      return 'no such object';
    case 'denied':
      return name === 'CredentialsProviderError'
        ? 'no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role'
        : `access denied (${name}: ${message})`;
    default:
      return `${name}: ${message}`;
  }
}
