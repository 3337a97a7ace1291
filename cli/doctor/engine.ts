import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { typeScript } from '../worker-processes.js';
import { ok, problem, warning, type Finding } from './check.js';

/** What workers/self-test.ts prints. */
interface SelfTest {
  backend: string;
  description: string;
  losses: number[];
  tokensPerSecond: number;
  seconds: number;
}

const timeoutMs = 120_000;

/** Trains a tiny random model for a moment in a process of its own, as a run does, and tells backend and speed. */
export async function checkEngine(backend?: string): Promise<Finding[]> {
  const { command, args } = typeScript('workers/self-test.ts');
  try {
    const { stdout } = await promisify(execFile)(command, [...args, ...(backend ? [backend] : [])], { timeout: timeoutMs });
    const test = JSON.parse(stdout.trim().split('\n').at(-1)!) as SelfTest;
    return [backendFinding(test), trainingFinding(test)];
  } catch (error) {
    const { stderr = '', message } = error as { stderr?: string; message: string };
    const reason = stderr.trim().split('\n').findLast((line) => /Error|error/.test(line)) ?? message.split('\n')[0];
    return [problem('Self-test', reason, 'Run: npm run setup')];
  }
}

function backendFinding({ backend, description }: SelfTest): Finding {
  if (backend === 'cuda' || backend === 'tensorflow') return ok('Backend', description);
  return warning('Backend', description, 'Training is about twenty times slower than on libtensorflow; set it up with: npm run setup');
}

function trainingFinding({ losses, tokensPerSecond, seconds }: SelfTest): Finding {
  const [first, last] = [losses[0], losses.at(-1)!];
  const detail = `${losses.length} steps in ${seconds.toFixed(1)} s, ${Math.round(tokensPerSecond)} tok/s, loss ${first.toFixed(3)} → ${last.toFixed(3)}`;
  return last < first ? ok('Self-test', detail) : problem('Self-test', `${detail}: expected it to fall`, 'Choose another backend with TEMPER_BACKEND.');
}
