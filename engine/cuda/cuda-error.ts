import { EngineError, type EngineFailure } from '../errors.js';

/** Anything that goes wrong between Node and the GPU: a missing library, a failed driver call, a kernel that does not compile. */
export class CudaError extends EngineError {
  constructor(code: string, message: string, failure: EngineFailure = 'internal') {
    super(failure, code, message);
    this.name = 'CudaError';
  }
}
