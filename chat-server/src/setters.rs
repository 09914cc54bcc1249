//! Setters for the public structs that may grow: `#[non_exhaustive]` forbids literals outside of this
//! crate, so each field has a setter of its name.

macro_rules! setters {
    ($type:ident $(<$lifetime:lifetime>)? { $($name:ident: $field:ty),* $(,)? }) => {
        impl $(<$lifetime>)? $type $(<$lifetime>)? {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, $name: $field) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }
    };
}

pub(crate) use setters;
