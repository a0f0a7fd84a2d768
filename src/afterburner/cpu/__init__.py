"""The CPU target: IR to native code through LLVM. The only folder that imports llvmlite."""
