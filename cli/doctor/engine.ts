import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { typeScript } from '../worker-processes.js';
import { ok, problem, warning, type Finding } from './check.js';
import { cudaFindings, type CudaFacts } from './cuda.js';

/** What workers/self-test.ts prints: what there is of CUDA, then how training went. */
interface SelfTest {
  backend: string;
  description: string;
  losses: number[];
  tokensPerSecond: number;
  seconds: number;
}

const timeoutMs = 120_000;

/** Looks for CUDA and trains a tiny random model for a moment, in a process of its own, as a run does, and tells backend and speed. */
export async function checkEngine(backend?: string): Promise<Finding[]> {
  const { command, args } = typeScript('workers/self-test.ts');
  const linesOf = (stdout: string): string[] => stdout.trim().split('\n').filter((line) => line.startsWith('{'));
  try {
    const { stdout } = await promisify(execFile)(command, [...args, ...(backend ? [backend] : [])], { timeout: timeoutMs });
    const [cuda, trained] = linesOf(stdout);
    const test = JSON.parse(trained) as SelfTest;
    return [...cudaFindings(JSON.parse(cuda) as CudaFacts), backendFinding(test), trainingFinding(test)];
  } catch (error) {
    const { stdout = '', stderr = '', message } = error as { stdout?: string; stderr?: string; message: string };
    const [cuda] = linesOf(stdout);
    const reason = stderr.trim().split('\n').findLast((line) => /Error|error/.test(line)) ?? message.split('\n')[0];
    return [...(cuda ? cudaFindings(JSON.parse(cuda) as CudaFacts) : []), problem('Self-test', reason, 'Run: npm run setup')];
  }
}

function backendFinding({ backend, description }: SelfTest): Finding {
  // Why CUDA is not used has been said.
  const chosen = description.replace(/; cuda is not used: .*/, '');
  if (backend === 'cuda' || backend === 'tensorflow') return ok('Backend', chosen);
  return warning('Backend', chosen, 'Training is about twenty times slower than on libtensorflow; set it up with: npm run setup');
}

function trainingFinding({ losses, tokensPerSecond, seconds }: SelfTest): Finding {
  const [first, last] = [losses[0], losses.at(-1)!];
  const detail = `${losses.length} steps in ${seconds.toFixed(1)} s, ${Math.round(tokensPerSecond)} tok/s, loss ${first.toFixed(3)} → ${last.toFixed(3)}`;
  return last < first ? ok('Self-test', detail) : problem('Self-test', `${detail}: expected it to fall`, 'Choose another backend with TEMPER_BACKEND.');
}
