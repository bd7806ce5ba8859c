//! Programs: what runs in ring 3.
//!
//! A [`Process`](process::Process) is a program that runs: a map, threads, objects and children. Each thread is a future on the
//! executor, which enters ring 3, carries out what the thread trapped for, and goes on. What a program asks for is in
//! [`wirevm_abi::user`]; whatever it asks, it can only ever be answered or ended.

mod calls;
mod copy;
mod futex;
mod load;
mod memory;
mod process;
mod programs;
mod thread;

pub use programs::Programs;
