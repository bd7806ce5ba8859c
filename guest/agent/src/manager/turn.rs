//! A manager's thread: one message after the other, while it is not told to wait.

use alloc::sync::Arc;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Context, Poll};

use wirevm_map::{Message, Ports};

use super::Manager;
use crate::platform::Platform;

/// What a manager does next.
enum Turn {
    /// It answers this about the object of that number.
    Answer(u64, Message),
    /// It waits for a message or a change.
    Wait,
    /// It is dead.
    End,
}

impl<P: Ports> Manager<P> {
    /// Answers messages until the manager dies. What it has begun to answer then it answers to the end.
    pub(crate) async fn serve(self: Arc<Self>, platform: &impl Platform<P>) {
        loop {
            self.hear();
            match self.turn() {
                Turn::Answer(number, message) => self.answer(platform, number, message).await,
                Turn::Wait => {
                    if let Some(received) = self.next().await {
                        self.state.lock().receive(received);
                    }
                }
                Turn::End => return,
            }
        }
    }

    /// Decides what to do next.
    fn turn(&self) -> Turn {
        let mut state = self.state.lock();
        state.is_at_work = false;
        state.has_changed = false;
        if state.is_dead {
            return Turn::End;
        }
        if state.delays {
            return Turn::Wait;
        }
        match state.pending.pop_front() {
            Some((number, message)) => {
                state.is_at_work = true;
                Turn::Answer(number, message)
            }
            None => Turn::Wait,
        }
    }

    /// Waits for a message or for a change of behaviour.
    async fn next(&self) -> Option<(u64, Message)> {
        let mut next = pin!(self.port.next());
        poll_fn(|context| match next.as_mut().poll(context) {
            Poll::Ready(received) => Poll::Ready(Some(received)),
            Poll::Pending => self.poll_change(context),
        })
        .await
    }

    fn poll_change(&self, context: &Context<'_>) -> Poll<Option<(u64, Message)>> {
        let mut state = self.state.lock();
        if state.has_changed {
            return Poll::Ready(None);
        }
        state.thread = Some(context.waker().clone());
        Poll::Pending
    }
}
